-- cancel(id, reason, at): ask a run to end. Where a handler may have something to clean up, it is
-- told; elsewhere the run ends here. Asked again, it tells the owner again, and ends what nobody
-- serves any more. Gives the status that the run has now, nil where there is none.
local function cancel(id, reason, at)
  local run = p .. 'run:' .. id
  local f = redis.call('HMGET', run, 'status', 'cancel', 'owner', 'watchers', 'entry', 'cancel_at')
  local status, asked = f[1], f[2]
  if not status or status == 'completed' or status == 'failed' or status == 'cancelled' then
    return status or nil
  end
  local r = queue_fields(run)
  local stream = stream_of(r)
  if status == 'stalled' or (status ~= 'running' and (r[4] == '0' or not is_served(stream))) then
    redis.call('HSETNX', run, 'cancel', reason)
    finish(id, run, r[1], f[4], status, 'cancelled', 'failure', asked or reason, '', at)
    redis.pcall('ZREM', p .. 'quarantine', id)
    redis.pcall('ZREM', p .. 'timers', id, id .. '!start', id .. '!finish')
    if f[5] then
      redis.pcall('XACK', p .. stream, 'workers', f[5])
      redis.pcall('XDEL', p .. stream, f[5])
    end
    return 'cancelled'
  end
  if status == 'running' then
    redis.call('HSETNX', run, 'cancel', reason)
    if not f[6] then
      redis.pcall('SADD', p .. 'worker:' .. f[3] .. ':notices', id)
      redis.pcall('PUBLISH', p .. 'worker:' .. f[3], id)
    end
    return status
  end
  if asked then
    return status
  end
  if status == 'queued' then
    redis.call('HSET', run, 'cancel', reason)
  else
    enqueue(id, run, r, status, at, 'cancel', reason)
    redis.pcall('ZREM', p .. 'timers', id)
  end
  return 'queued'
end
