#!lua flags=allow-oom
-- uses: clock, fence
-- Record a failed attempt of a step that will be tried again, and when.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, delay in ms, rest of the entry
-- Reply flags; 'FENCED'; 'ABANDONED'; 'DIVERGED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local journal = run .. ':journal'
local word = flags(f[2], f[3])
local old = redis.call('HGET', journal, ARGV[3])
if old then
  local kind, token = entry_head(old)
  if kind ~= 'o' then
    if token ~= ARGV[2] then
      return 'DIVERGED'
    end
    return kind == 'a' and 'ABANDONED' or word
  end
  -- The same attempt sent again must not move its due time, nor a late copy undo the next one.
  local made, making = string.match(old, '^%a %S+ %d+ %d+ %d+ (%d+)'), string.match(ARGV[5], ' (%d+)')
  if token == ARGV[2] and tonumber(made) >= tonumber(making) then
    return word
  end
end
local at = now()
redis.call('HSET', journal, ARGV[3],
  'o ' .. ARGV[2] .. ' ' .. ms(at) .. ' ' .. ms(at + ARGV[4]) .. ' ' .. ARGV[5])
return word
