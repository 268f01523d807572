-- stir(id, run, status, owner, at): have a run look at what has just happened to it. One that
-- waits is queued, an owner is told; elsewhere the next owner finds it. Gives its status.
-- tell(id, run, status, owner, at): as stir, of what has time until the next attempt where the
-- handler of a run has failed, and is to be called again later.
local function stir(id, run, status, owner, at)
  if WAITS[status] then
    enqueue(id, run, queue_fields(run), status, at)
    redis.pcall('ZREM', p .. 'timers', id)
    return 'queued'
  end
  if status == 'running' then
    redis.pcall('SADD', p .. 'worker:' .. owner .. ':notices', id)
    redis.pcall('PUBLISH', p .. 'worker:' .. owner, id)
  end
  return status
end
local function tell(id, run, status, owner, at)
  if status == 'awaiting_retry' and redis.call('HGET', run, 'waits') == '' then
    return status
  end
  return stir(id, run, status, owner, at)
end
