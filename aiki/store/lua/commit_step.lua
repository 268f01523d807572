#!lua flags=allow-oom
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
if not (f[2] or f[3]) and redis.call('HSETNX', run .. ':journal', ARGV[3], ARGV[4]) == 1 then
  return 0 -- as most of them are
end
-- uses: fence, close
return close(run, ARGV[3], ARGV[4], ARGV[2]) or flags(f[2], f[3])
