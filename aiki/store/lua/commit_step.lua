#!lua flags=allow-oom
-- uses: fence, close
-- Record how a step ended.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, entry (of kind r, f or n)
-- Reply flags; 'FENCED'; 'ABANDONED' where this owner abandoned the step before; 'DIVERGED' where
--       another owner closed it
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
return close(run, ARGV[3], ARGV[4], ARGV[2]) or flags(f[2], f[3])
