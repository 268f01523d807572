#!lua flags=allow-oom
-- uses: clock, fence, close
-- Record that a wait is over: its time has come, or it was woken. Nothing is recorded while mail
-- is there that the owner has not seen: what was accepted before the time-out comes first.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, entry (of kind r or t), the news that the owner has seen, or ''
--       where none matters, '1' where it was woken
-- Reply flags; {'EARLY', ms left}; {'NEWS'}; 'FENCED'; 'ABANDONED'; 'DIVERGED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local kind, _, _, due = entry_head(redis.call('HGET', run .. ':journal', ARGV[3]) or '')
if kind == 'o' then
  if ARGV[5] ~= '' and (tonumber(f[3]) or 0) > tonumber(ARGV[5]) then
    return { 'NEWS' }
  end
  local left = due - now()
  if left > 0 and ARGV[6] ~= '1' then
    return { 'EARLY', ms(left) }
  end
end
return close(run, ARGV[3], ARGV[4], ARGV[2]) or flags(f[2], f[3])
