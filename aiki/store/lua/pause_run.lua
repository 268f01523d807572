#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue, stir, counts
-- Have a run rest until it is resumed. Its owner is told, and hands it back as soon as what
-- executes is recorded; a timer is dropped, since a resumed run looks for itself what is due.
-- KEYS  the key prefix
-- ARGV  run id
-- Reply {'OK', status it has now}, {'NONE'}; {'REFUSED', status} where it cannot rest;
--       {'CANCELLING'} where it is asked to end
-- From  queued, any that waits -> paused; running -> running
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'status', 'owner', 'entry', 'pause', 'cancel', 'news')
local status = f[1]
if not status or status == 'deleted' then
  return { 'NONE' }
end
if status == 'paused' or (status == 'running' and f[4] == '1') then
  return { 'OK', status }
end
if status ~= 'queued' and status ~= 'running' and not WAITS[status] then
  return { 'REFUSED', status }
end
if f[5] then
  return { 'CANCELLING' }
end
check_counts({ f[6] })
local at = ms(now())
if status == 'running' then
  redis.call('HINCRBY', run, 'news', 1)
  redis.call('HSET', run, 'pause', '1')
  return { 'OK', stir(id, run, status, f[2], at) }
end
local r = queue_fields(run)
r[6] = '1'
enqueue(id, run, r, status, at, 'pause', '1')
if status == 'queued' and f[3] then
  redis.pcall('XACK', p .. stream_of(r), 'workers', f[3])
  redis.pcall('XDEL', p .. stream_of(r), f[3])
end
redis.pcall('ZREM', p .. 'timers', id)
return { 'OK', 'paused' }
