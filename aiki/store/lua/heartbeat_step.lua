#!lua flags=allow-oom
-- uses: clock, fence
-- Record that an attempt of a step is under way, with what it has said last, in an open entry.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, rest of the entry (its attempts: those that failed before)
-- Reply flags; 'FENCED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local journal = run .. ':journal'
local old = redis.call('HGET', journal, ARGV[3])
if old then
  local kind, token = entry_head(old)
  -- A late copy undoes neither the end of the step, nor the next attempt, nor a later heartbeat:
  -- the time spent tells one from another.
  if kind ~= 'o' then
    return flags(f[2], f[3])
  end
  local made, spent = string.match(old, '^%a %S+ %d+ %d+ %d+ (%d+) (%d+)')
  local making, spending = string.match(ARGV[4], '^%d+ (%d+) (%d+)')
  made, making = tonumber(made), tonumber(making)
  if token == ARGV[2]
    and (made > making or (made == making and tonumber(spent) >= tonumber(spending))) then
    return flags(f[2], f[3])
  end
end
redis.call('HSET', journal, ARGV[3], 'o ' .. ARGV[2] .. ' ' .. ms(now()) .. ' 0 ' .. ARGV[4])
return flags(f[2], f[3])
