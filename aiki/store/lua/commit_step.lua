#!lua flags=allow-oom
-- uses: fence
-- Record how a step ended.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, entry (of kind r or f)
-- Reply 1 where a cancel is wanted, else 0; 'FENCED'; 'ABANDONED' where this owner abandoned the
--       step before; 'DIVERGED' where another owner closed it
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local journal = run .. ':journal'
if redis.call('HSETNX', journal, ARGV[3], ARGV[4]) == 0 then
  local kind, token = entry_head(redis.call('HGET', journal, ARGV[3]))
  if kind == 'o' then
    redis.call('HSET', journal, ARGV[3], ARGV[4])
    redis.call('HDEL', run, 'progress') -- the journal grew no longer, yet this is progress
  elseif token ~= ARGV[2] then
    return 'DIVERGED'
  elseif kind == 'a' then
    return 'ABANDONED'
  end
end
return f[2] and 1 or 0
