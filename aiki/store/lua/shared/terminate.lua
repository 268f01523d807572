-- terminate(id, reason, at): end a run at once, without its handler; a run that is over stays as
-- it is. Its owner, whose token no longer holds, is told to look, so that it stops soon. Gives the
-- status that the run has now, nil where there is none. What can fail comes before the first write.
local function terminate(id, reason, at)
  local run = p .. 'run:' .. id
  local f = redis.call('HMGET', run, 'status', 'owner', 'watchers', 'entry', 'kin')
  local status = f[1]
  if not status or status == 'deleted' then
    return nil
  elseif status == 'completed' or status == 'failed' or status == 'cancelled' then
    return status
  end
  local r = queue_fields(run)
  local stream = p .. stream_of(r)
  finish(id, run, r[1], f[3], status, 'cancelled', 'failure', reason, '', at, f[5])
  if status == 'running' and f[2] then
    redis.pcall('SREM', p .. 'worker:' .. f[2] .. ':runs', id)
    redis.pcall('SADD', p .. 'worker:' .. f[2] .. ':notices', id)
    redis.pcall('PUBLISH', p .. 'worker:' .. f[2], id)
  elseif status == 'queued' and f[4] then
    redis.pcall('XACK', stream, 'workers', f[4])
    redis.pcall('XDEL', stream, f[4])
  end
  redis.pcall('ZREM', p .. 'quarantine', id)
  redis.pcall('ZREM', p .. 'timers', id, id .. '!start', id .. '!finish')
  return 'cancelled'
end
