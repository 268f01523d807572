#!lua flags=allow-oom
-- uses: clock
-- Say that a supervisor is there; hear how many runs are in quarantine.
-- KEYS  the key prefix
-- ARGV  supervisor id ('' to only ask), ms it is believed without another beat
-- Reply {runs in quarantine, live supervisors}
local p = KEYS[1]
local at = now()
local quarantined = redis.call('ZCARD', p .. 'quarantine')
if ARGV[1] ~= '' then
  redis.call('ZADD', p .. 'supervisors', ms(at + ARGV[2]), ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', p .. 'supervisors', '-inf', ms(at))
return { quarantined, redis.call('ZCARD', p .. 'supervisors') }
