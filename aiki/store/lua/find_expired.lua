#!lua flags=allow-oom
-- uses: clock
-- Name the workers whose lease has run out, and those whose recovery was begun.
-- `pulse` is when this was last asked. A gap of over half a lease means that nobody looked
-- (the server was away, its clock jumped): everybody then gets a lease of grace.
-- KEYS  the key prefix
-- ARGV  lease in ms
-- Reply incarnations
local p = KEYS[1]
local at = now()
local pulse = redis.call('HMGET', p .. 'pulse', 'at', 'grace')
local grace = tonumber(pulse[2] or '0')
if pulse[1] and math.abs(at - pulse[1]) > ARGV[1] / 2 then
  grace = at + ARGV[1]
end
local before = at < grace and '0' or '(' .. ms(at)
local names = redis.call('ZRANGE', p .. 'workers', '-inf', before, 'BYSCORE', 'LIMIT', '0', '100')
redis.call('HSET', p .. 'pulse', 'at', ms(at), 'grace', ms(grace))
return names
