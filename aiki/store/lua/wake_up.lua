#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue, stir, counts
-- End the sleeps that a run is in before their time.
-- KEYS  the key prefix
-- ARGV  run id, an id of this request, ms for which that is remembered
-- Reply {'OK', status it has now}, {'NONE'}, {'OVER', status} where no sleep can be
-- From  any in which a sleep may be; one that waits -> queued
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'status', 'owner', 'wakes', 'news')
if not f[1] or f[1] == 'deleted' then
  return { 'NONE' }
end
if redis.call('ZSCORE', run .. ':seen', ARGV[2]) then
  return { 'OK', f[1] }
end
if f[1] ~= 'running' and f[1] ~= 'queued' and f[1] ~= 'paused' and not WAITS[f[1]] then
  return { 'OVER', f[1] }
end
check_counts({ f[3], f[4] })
local at = now()
local status = stir(id, run, f[1], f[2], ms(at))
redis.call('HINCRBY', run, 'wakes', 1)
redis.call('HINCRBY', run, 'news', 1)
redis.call('ZREMRANGEBYSCORE', run .. ':seen', '-inf', ms(at))
redis.call('ZADD', run .. ':seen', ms(at + ARGV[3]), ARGV[2])
return { 'OK', status }
