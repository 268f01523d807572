-- add_entry(stream, id, epoch): offer a run to the workers that read a stream.
-- stream_of(r): the stream for a record's {workflow, version, pool, epoch, quarantine}.
local function open_stream(stream)
  if redis.call('EXISTS', p .. stream) == 0 then
    redis.call('SADD', p .. 'streams', stream)
    redis.call('XGROUP', 'CREATE', p .. stream, 'workers', '0', 'MKSTREAM')
  end
end
local function add_entry(stream, id, epoch)
  local entry = redis.call('XADD', p .. stream, 'NOMKSTREAM', '*', 'run', id, 'epoch', epoch)
  if entry then
    return entry
  end
  open_stream(stream)
  return redis.call('XADD', p .. stream, '*', 'run', id, 'epoch', epoch)
end
local function stream_of(r)
  local stream = 'ready:' .. r[1] .. '/' .. r[2] .. '/' .. r[3]
  return r[5] == '1' and stream .. '/quarantine' or stream
end
