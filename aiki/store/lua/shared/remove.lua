-- is_mapped(parent, slot): whether a child belongs to a map that its parent may look at again.
-- is_awaited(held, parent, slot): whether the record of a child is held for a parent that is not
-- over.
-- remove(id, run): remove a run that is over, with every key and entry it has but that in the
-- listing of its status.
local function is_mapped(parent, slot)
  local map = parent and string.match(slot, '^(.*)/%d+$')
  return map and redis.call('EXISTS', p .. 'run:' .. parent .. ':map:' .. map) == 1
end
local function is_awaited(held, parent, slot)
  local status = held and parent and redis.pcall('HGET', p .. 'run:' .. parent, 'status')
  return type(status) == 'string' and not FINAL[status]
    and (slot == '' or is_mapped(parent, slot)) -- else its parent has continued as new
end
local function remove(id, run)
  local f = redis.call('HMGET', run, 'reference', 'tags', 'start_by', 'finish_by', 'maps', 'kin',
    'streams')
  if f[1] then
    redis.call('DEL', p .. f[1])
  end
  for tag in string.gmatch(f[2] or '', '[^\n]+') do
    redis.pcall('ZREM', p .. 'tag:' .. tag, id)
  end
  if f[3] or f[4] then
    redis.pcall('ZREM', p .. 'timers', id .. '!start', id .. '!finish')
  end
  for map in string.gmatch(f[5] or '', '[^\n]+') do
    redis.call('UNLINK', run .. ':map:' .. map)
  end
  -- Those that are still to end too are looked after without it.
  if f[6] and redis.pcall('SISMEMBER', p .. 'cascades', id) ~= 1 then
    redis.call('UNLINK', run .. ':children')
  end
  -- Its owner notes its streams, each in a line: three words and the topic.
  for topic in string.gmatch(f[7] or '', '%S+ %S+ %S+ ([^\n]+)\n') do
    redis.call('UNLINK', run .. ':stream:' .. topic)
  end
  redis.call('UNLINK', run, run .. ':journal', run .. ':mailbox', run .. ':seen', run .. ':answers')
end
