#!lua flags=allow-oom
-- uses: clock
-- Say that a supervisor is there; hear how many runs are in quarantine.
-- KEYS  the key prefix
-- ARGV  store id, supervisor id ('' to only ask), ms it is believed without another beat
-- Reply {runs in quarantine, live supervisors}; {'STORE'} where this is another store
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end
local at = now()
local quarantined = redis.call('ZCARD', p .. 'quarantine')
if ARGV[2] ~= '' then
  redis.call('ZADD', p .. 'supervisors', ms(at + ARGV[3]), ARGV[2])
end
redis.call('ZREMRANGEBYSCORE', p .. 'supervisors', '-inf', ms(at))
return { quarantined, redis.call('ZCARD', p .. 'supervisors') }
