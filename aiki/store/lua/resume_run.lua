#!lua flags=allow-oom
-- uses: clock, ready, index, enqueue
-- Let a run go on that rests, or that is held: what is known against it is forgotten.
-- KEYS  the key prefix
-- ARGV  run id
-- Reply {'OK', status it has now}, {'NONE'}, {'REFUSED', status} where it is over
-- From  paused, stalled -> queued; running stays so, and rests no more; any other stays as it is
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local status = redis.call('HGET', run, 'status')
if not status or status == 'deleted' then
  return { 'NONE' }
end
if status == 'completed' or status == 'failed' or status == 'cancelled' then
  return { 'REFUSED', status }
end
if status == 'paused' or status == 'stalled' then
  local r = queue_fields(run)
  r[6] = ''
  if status == 'stalled' then
    r[5] = '0'
    enqueue(id, run, r, status, ms(now()), 'quarantine', '0', 'deaths', '0', 'death_log', '',
      'reason', '')
  else
    enqueue(id, run, r, status, ms(now()))
  end
  status = 'queued'
end
redis.call('HDEL', run, 'pause')
return { 'OK', status }
