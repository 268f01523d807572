-- move(id, workflow, from, to, at): keep the listing index true. Queued and running runs are
-- listed together as `active`, since they change places too often; the record tells them apart.
-- What follows from the record (listings, sets, notifications) is written by pcall: where its
-- key is damaged the change is still made, and the sweep mends the key.
local function listed_as(status)
  return (status == 'queued' or status == 'running') and 'active' or status
end
local function move(id, workflow, from, to, at)
  redis.pcall('ZREM', p .. 'index:' .. listed_as(from) .. '/' .. workflow, id)
  redis.pcall('ZADD', p .. 'index:' .. listed_as(to) .. '/' .. workflow, at, id)
end
