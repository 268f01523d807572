#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue, stir, finish
-- Ask a run to end. Where a handler may have something to clean up, it is told; elsewhere the
-- run ends here. Asked again, it tells the owner again, and ends what nobody serves any more.
-- KEYS  the key prefix
-- ARGV  run id, reason as stored
-- Reply the status it has now; 'NONE' where there is no such run
-- From  queued or one that waits -> queued, or cancelled where nobody serves it; running ->
--       running; stalled -> cancelled; a run that is over stays as it is
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'status', 'cancel', 'owner', 'watchers', 'entry', 'cancel_at')
local status, asked = f[1], f[2]
if not status then
  return 'NONE'
end
if status == 'completed' or status == 'failed' or status == 'cancelled' then
  return status
end
local at = ms(now())
local r = queue_fields(run)
local stream = p .. stream_of(r)

-- Whether a worker that has a lease reads the stream.
local function is_served()
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, 'workers')
  for _, consumer in ipairs(consumers) do
    if tonumber(redis.call('ZSCORE', p .. 'workers', consumer[2]) or 0) > 0 then
      return true
    end
  end
  return false
end

if status == 'stalled' or (status ~= 'running' and (r[4] == '0' or not is_served())) then
  redis.call('HSETNX', run, 'cancel', ARGV[2])
  finish(id, run, r[1], f[4], status, 'cancelled', 'failure', asked or ARGV[2], '', at)
  redis.pcall('ZREM', p .. 'quarantine', id)
  redis.pcall('ZREM', p .. 'timers', id)
  if f[5] then
    redis.pcall('XACK', stream, 'workers', f[5])
    redis.pcall('XDEL', stream, f[5])
  end
  return 'cancelled'
end
if status == 'running' and f[6] then
  return status -- its handler has met the cancel already
end
if asked and status ~= 'running' then
  return status
end
status = stir(id, run, status, f[3], at)
redis.call('HSETNX', run, 'cancel', ARGV[2])
return status
