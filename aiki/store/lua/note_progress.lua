#!lua flags=allow-oom
-- uses: fence
-- Note how far a run is; the last note counts.
-- KEYS  the key prefix
-- ARGV  run id, token, the note
-- Reply flags; 'FENCED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
redis.call('HSET', run, 'reached', ARGV[3])
return flags(f[2], f[3])
