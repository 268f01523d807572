#!lua flags=allow-oom
-- uses: clock, ready, index, enqueue
-- Hand an owned run back, to be claimed by anybody at once.
-- KEYS  the key prefix
-- ARGV  run id, epoch, incarnation
-- Reply 'OK'; 'STALE' where this incarnation does not own the run at that epoch
-- From  running -> queued, or paused where that is asked for
local p = KEYS[1]
local id, epoch, incarnation = ARGV[1], ARGV[2], ARGV[3]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'status', 'owner')
local r = queue_fields(run)
local owned = f[1] == 'running' and f[2] == incarnation
if not owned then
  redis.pcall('SREM', p .. 'worker:' .. incarnation .. ':runs', id)
end
if not owned or r[4] ~= epoch then
  return 'STALE'
end
enqueue(id, run, r, 'running', ms(now()))
redis.pcall('SREM', p .. 'worker:' .. incarnation .. ':runs', id)
return 'OK'
