#!lua flags=allow-oom
-- uses: clock
-- Renew a lease, never create one; hear what the worker should look at.
-- KEYS  the key prefix
-- ARGV  store id, incarnation, lease in ms, then run ids whose notices are confirmed
-- Reply {'OK', run ids with a notice}; {'DEAD'}; {'STORE'}
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end
local lease = redis.call('ZSCORE', p .. 'workers', ARGV[2])
if not lease or lease == '0' then
  return { 'DEAD' }
end
local notices = p .. 'worker:' .. ARGV[2] .. ':notices'
for i = 4, #ARGV do
  redis.call('SREM', notices, ARGV[i])
end
local left = redis.call('SMEMBERS', notices)
redis.call('ZADD', p .. 'workers', ms(now() + ARGV[3]), ARGV[2])
return { 'OK', left }
