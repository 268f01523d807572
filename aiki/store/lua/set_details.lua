#!lua flags=allow-oom
-- Say what a run is at, for whoever looks at it. Nothing is decided by it.
-- KEYS  the key prefix
-- ARGV  run id, token, text
-- Reply 'OK'; 'FENCED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
if redis.call('HGET', run, 'token') ~= ARGV[2] then
  return 'FENCED'
end
redis.call('HSET', run, 'details', ARGV[3])
return 'OK'
