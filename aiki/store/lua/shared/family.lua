-- hears(status): whether a parent with this status is told of ends: one that has failed may be
-- retried.
-- told_parent(id, run, to, at): tell the parent of a run that the run is over, once, where that
-- hears it: of a child that it waits for by mail; of one that belongs to a map when as many
-- have ended as it wants to hear of, or the first has failed where none may.
-- One that has continued as new since is not: no handler of its generation asks for it.
-- The record of a child is held until its parent has taken its end, or has ended itself.
-- family(id, run, kin, to, at): what the end of a run means for its parent and its children. kin is
-- '' for most runs; it has a p where there is a parent, and a c where there are children.
local function hears(status)
  return status and (not FINAL[status] or status == 'failed')
end
local function told_parent(id, run, to, at)
  local k = redis.call('HMGET', run, 'parent', 'slot', 'parent_generation')
  local parent = p .. 'run:' .. k[1]
  local f = redis.call('HMGET', parent, 'status', 'owner', 'generation')
  if not hears(f[1]) then
    return
  end
  if k[3] and k[3] ~= (f[3] or '0') then
    redis.call('HDEL', parent .. ':children', id)
    return
  end
  if k[2] == '' then
    put_mail(k[1], parent, f, 'end/' .. id .. '\n' .. to, at, 'ends')
  else
    local name, index = string.match(k[2], '^(.*)/(%d+)$')
    local map = parent .. ':map:' .. name
    local m = redis.call('HMGET', map, index, 'ended', 'wake_at', 'told', 'first', 'strict')
    if not m[6] then
      return -- its parent has continued as new
    end
    check_counts(redis.call('HMGET', parent, 'news'))
    local ended, wanted = (tonumber(m[2]) or 0) + 1, tonumber(m[3]) or 0
    local is_first = to ~= 'completed' and not m[5]
    local is_time = wanted > (tonumber(m[4]) or 0) and ended >= wanted
    if is_time or (is_first and m[6] == '1') then
      tell(k[1], parent, f[1], f[2], at) -- it is the only part that may fail
      redis.call('HINCRBY', parent, 'news', 1)
    end
    if not m[1] then
      redis.call('HSET', map, index, string.sub(to, 1, 2), 'ended', ended,
        'told', is_time and m[3] or m[4] or '0')
    end
    if is_first then
      redis.call('HSET', map, 'first', index)
    end
  end
  redis.call('HSET', run, 'held', '1')
  redis.call('HDEL', parent .. ':children', id)
end
local function family(id, run, kin, to, at)
  if string.find(kin, 'p') then
    pcall(told_parent, id, run, to, at) -- where that fails the sweep tells it later
  end
  if string.find(kin, 'c') and redis.pcall('EXISTS', run .. ':children') == 1 then
    redis.pcall('SADD', p .. 'cascades', id)
    redis.pcall('PUBLISH', p .. 'cascades', id)
  end
end
