-- family(id, run, kin, to, at): what the end of a run means for its parent and its children. kin is
-- '' for most runs; it has a p where there is a parent, and a c where there are children.
-- A parent that is not over is told: of a child that it waits for by mail; of one that belongs to
-- a map when as many have ended as it wants to hear of, or one that must not fail has.
-- The record of a child is held until its parent has taken its end, or has ended itself.
local function told_parent(id, run, to, at)
  local k = redis.call('HMGET', run, 'parent', 'slot')
  local parent = p .. 'run:' .. k[1]
  local f = redis.call('HMGET', parent, 'status', 'owner')
  if not f[1] or f[1] == 'completed' or f[1] == 'failed' or f[1] == 'cancelled'
    or f[1] == 'deleted' then
    return
  end
  if k[2] == '' then
    put_mail(k[1], parent, f, 'end/' .. id .. '\n' .. to, at)
  else
    local name, index = string.match(k[2], '^(.*)/(%d+)$')
    local map = parent .. ':map:' .. name
    local m = redis.call('HMGET', map, 'wake_at', 'strict')
    if not m[2] then
      return -- its parent has continued as new
    end
    redis.call('HSET', map, index, string.sub(to, 1, 2))
    local ended, wanted = redis.call('HINCRBY', map, 'ended', 1), tonumber(m[1]) or 0
    if (wanted > 0 and ended >= wanted) or (m[2] == '1' and to ~= 'completed') then
      redis.call('HSET', map, 'wake_at', '0')
      stir(k[1], parent, f[1], f[2], at)
      redis.call('HINCRBY', parent, 'news', 1)
    end
  end
  redis.call('HSET', run, 'held', '1')
  redis.call('HDEL', parent .. ':children', id)
end
local function family(id, run, kin, to, at)
  if string.find(kin, 'p') then
    pcall(told_parent, id, run, to, at) -- where the parent is damaged, its child ends all the same
  end
  if string.find(kin, 'c') then
    redis.pcall('SADD', p .. 'cascades', id)
    redis.pcall('PUBLISH', p .. 'cascades', id)
  end
end
