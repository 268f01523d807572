#!lua flags=allow-oom
-- uses: clock, fence
-- Record that a run waits for a time, once: whoever asks again hears what is left of it. With
-- another duration than before only the difference counts, from when the wait was first recorded.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, duration in ms or '', else the time it ends at in ms,
--       rest of the entry, whose payload is how often the run was woken before
-- Reply {flags, ms left, times it was woken before}; 'FENCED'; 'ABANDONED'; 'DIVERGED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news', 'wakes')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local journal = run .. ':journal'
local at = now()
local written, woken = at, f[4] or '0'
local old = redis.call('HGET', journal, ARGV[3])
if old then
  local kind, token, before = entry_head(old)
  if kind == 'a' and token == ARGV[2] then
    return 'ABANDONED'
  elseif kind ~= 'o' then
    return 'DIVERGED'
  end
  written, woken = tonumber(before), string.match(old, '\n(.*)$')
end
local due = ARGV[4] ~= '' and written + ARGV[4] or tonumber(ARGV[5])
redis.call('HSET', journal, ARGV[3],
  'o ' .. ARGV[2] .. ' ' .. ms(written) .. ' ' .. ms(due) .. ' ' .. ARGV[6] .. woken)
return { flags(f[2], f[3]), ms(math.max(0, due - at)), woken }
