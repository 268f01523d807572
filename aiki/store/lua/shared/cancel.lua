-- cancel(id, reason, at): ask a run to end. Where a handler may have something to clean up, it is
-- told; elsewhere the run ends here. Asked again, it tells the owner again, and ends what nobody
-- serves any more. Gives the status that the run has now, nil where there is none.
local function cancel(id, reason, at)
  local run = p .. 'run:' .. id
  local f = redis.call('HMGET', run, 'status', 'cancel', 'owner', 'watchers', 'entry', 'cancel_at',
    'kin')
  local status, asked = f[1], f[2]
  if not status or status == 'deleted' then
    return nil
  elseif status == 'completed' or status == 'failed' or status == 'cancelled' then
    return status
  end
  local r = queue_fields(run)
  local stream = stream_of(r)
  if status == 'stalled' or (status ~= 'running' and (r[4] == '0' or not is_served(stream))) then
    redis.call('HSETNX', run, 'cancel', reason)
    finish(id, run, r[1], f[4], status, 'cancelled', 'failure', asked or reason, '', at, f[7])
    redis.pcall('ZREM', p .. 'quarantine', id)
    redis.pcall('ZREM', p .. 'timers', id, id .. '!start', id .. '!finish')
    if f[5] then
      redis.pcall('XACK', p .. stream, 'workers', f[5])
      redis.pcall('XDEL', p .. stream, f[5])
    end
    return 'cancelled'
  end
  if status == 'running' and f[6] then
    return status -- its handler has met the cancel already
  end
  if asked and status ~= 'running' then
    return status
  end
  -- The next is the only part that may fail.
  if status == 'paused' then
    r[6] = ''
    enqueue(id, run, r, status, at)
    status = 'queued'
  else
    status = stir(id, run, status, f[3], at)
  end
  if r[6] then
    redis.call('HDEL', run, 'pause') -- who cleans up is not kept waiting
  end
  redis.call('HSETNX', run, 'cancel', reason)
  return status
end
