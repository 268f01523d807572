-- stir(id, run, status, owner, at): have a run look at what has just happened to it. One that
-- waits is queued, an owner is told; elsewhere the next owner finds it. Gives its status.
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
