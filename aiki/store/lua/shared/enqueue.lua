-- queue_fields(run): what enqueue needs of a record: workflow, version, pool, epoch, quarantine,
-- pause.
-- enqueue(id, run, r, from, at, ...): make a run wanted: an entry in the ready stream of its
-- version, status, listings; or let it be paused where that is asked for. The rest are further
-- field/value pairs for the record.
local function queue_fields(run)
  return redis.call('HMGET', run, 'workflow', 'version', 'pool', 'epoch', 'quarantine', 'pause')
end
local function enqueue(id, run, r, from, at, ...)
  if r[6] == '1' then
    redis.call('HSET', run, 'status', 'paused', 'since', at, 'epoch', r[4], 'entry', '',
      'owner', '', 'token', '', ...)
    redis.pcall('ZREM', p .. 'quarantine', id)
    move(id, r[1], from, 'paused', at)
    return
  end
  local entry = add_entry(stream_of(r), id, r[4])
  redis.call('HSET', run, 'status', 'queued', 'since', at, 'epoch', r[4], 'entry', entry,
    'owner', '', 'token', '', ...)
  if r[5] == '1' then
    redis.pcall('ZADD', p .. 'quarantine', at, id)
  end
  if from ~= 'running' and from ~= 'queued' then
    move(id, r[1], from, 'queued', at)
  end
end
