#!lua flags=allow-oom
-- uses: fence
-- Record that the handler gave up waiting for a step; this wins over its own late result.
-- With '1' as the last argument it is also where a wanted cancel is delivered.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, entry (of kind a), '1' to deliver the cancel here
-- Reply flags; 'FENCED'; 'DIVERGED' where another owner closed it
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
  if kind ~= 'o' and token ~= ARGV[2] then
    return 'DIVERGED'
  end
end
redis.call('HSET', journal, ARGV[3], ARGV[4])
if ARGV[5] == '1' then
  redis.call('HSETNX', run, 'cancel_at', ARGV[3])
end
return flags(f[2], f[3])
