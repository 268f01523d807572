-- again(stream, entry): add a delivered entry anew, if its run still wants a worker by it, and
-- drop the old one.
local function again(stream, entry)
  local found = redis.call('XRANGE', p .. stream, entry, entry)[1]
  if found then
    local run = p .. 'run:' .. found[2][2]
    local r = redis.call('HMGET', run, 'status', 'epoch', 'entry')
    if r[1] == 'queued' and r[2] == found[2][4] then
      local new = redis.call('XADD', p .. stream, '*', unpack(found[2]))
      if r[3] == entry then
        redis.call('HSET', run, 'entry', new)
      end
    end
  end
  redis.call('XACK', p .. stream, 'workers', entry)
  redis.call('XDEL', p .. stream, entry)
end
