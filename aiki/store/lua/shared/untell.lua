-- untell(id, run, parent, slot, policy): take back what a child has told its parent of its end,
-- where that has still to look: the child is to end anew, and its policy holds again.
-- is_in_results(parent, slot, generation): whether a parent that may be repeated has recorded the
-- results of the map that a child belongs to: they are read from the children.
local function untell_map(map, index)
  local m = redis.call('HMGET', map, index, 'ended', 'told', 'first')
  if not m[1] then
    return
  end
  check_counts({ m[2], m[3] })
  local ended = m[2] - 1
  redis.call('HDEL', map, index)
  redis.call('HSET', map, 'ended', ended, 'told', math.min(m[3] or 0, ended))
  if m[4] == index then
    redis.call('HDEL', map, 'first')
    local fields = redis.call('HGETALL', map)
    for i = 1, #fields, 2 do
      if string.match(fields[i], '^%d+$') and fields[i + 1] ~= 'co' then
        redis.call('HSET', map, 'first', fields[i])
      end
    end
  end
end
local function untell_mail(id, parent)
  check_counts(redis.call('HMGET', parent, 'ends'))
  local mail = redis.call('HGETALL', parent .. ':mailbox')
  for i = 1, #mail, 2 do
    if string.match(mail[i + 1], '^end/([^\n]+)\n') == id then
      redis.call('HDEL', parent .. ':mailbox', mail[i])
      redis.call('HINCRBY', parent, 'ends', -1)
    end
  end
end
local function is_in_results(parent, slot, generation)
  local map = string.match(slot or '', '^(.*)/%d+$')
  local f = map and redis.pcall('HMGET', p .. 'run:' .. parent, 'status', 'generation')
  if not f or not f[1] or FINAL[f[1]] or (f[2] or '0') ~= (generation or '0') then
    return false
  end
  local key = string.gsub(map, '~%d+$', '')
  local entry = redis.pcall('HGET', p .. 'run:' .. parent .. ':journal', key)
  return type(entry) == 'string' and string.sub(entry, 1, 1) == 'r'
end
local function untell(id, run, parent, slot, policy)
  local map, index = string.match(slot, '^(.*)/(%d+)$')
  if map then
    untell_map(p .. 'run:' .. parent .. ':map:' .. map, index)
  elseif redis.call('HEXISTS', run, 'held') == 1 then
    untell_mail(id, p .. 'run:' .. parent)
  end
  redis.call('HDEL', run, 'held')
  if policy and not FINAL[redis.call('HGET', p .. 'run:' .. parent, 'status') or 'deleted'] then
    redis.call('HSET', p .. 'run:' .. parent .. ':children', id, policy)
  end
end
