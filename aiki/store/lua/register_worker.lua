#!lua flags=allow-oom
-- uses: clock, ready
-- Create the lease of one life of a worker, and its consumer in each stream that it reads.
-- KEYS  the key prefix
-- ARGV  store id, incarnation, lease in ms, what the worker says of itself,
--       then its streams (without prefix)
-- Reply 'OK', also when sent again; 'DEAD' where that life is over; 'STORE'
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return 'STORE'
end
local worker = p .. 'worker:' .. ARGV[2]
local lease = redis.call('ZSCORE', p .. 'workers', ARGV[2])
if lease == '0' or (not lease and redis.call('EXISTS', worker) == 1) then
  return 'DEAD'
end
-- A script is not rolled back, so what could fail comes first.
redis.call('SCARD', p .. 'streams')
redis.call('SCARD', worker .. ':streams')
for i = 5, #ARGV do
  if redis.call('EXISTS', p .. ARGV[i]) == 1 then
    redis.call('XPENDING', p .. ARGV[i], 'workers')
  end
end
redis.call('HSET', worker, 'lease', ARGV[3], 'about', ARGV[4])
for i = 5, #ARGV do
  open_stream(ARGV[i])
  redis.call('XGROUP', 'CREATECONSUMER', p .. ARGV[i], 'workers', ARGV[2])
  redis.call('SADD', worker .. ':streams', ARGV[i])
end
redis.call('ZADD', p .. 'workers', ms(now() + ARGV[3]), ARGV[2])
return 'OK'
