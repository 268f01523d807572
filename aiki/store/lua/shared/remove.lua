-- remove(id, run): remove a run that is over, with every key and entry it has but that in the
-- listing of its status.
local function remove(id, run)
  local f = redis.call('HMGET', run, 'reference', 'tags', 'start_by', 'finish_by')
  if f[1] then
    redis.call('DEL', p .. f[1])
  end
  for tag in string.gmatch(f[2] or '', '[^\n]+') do
    redis.pcall('ZREM', p .. 'tag:' .. tag, id)
  end
  if f[3] or f[4] then
    redis.pcall('ZREM', p .. 'timers', id .. '!start', id .. '!finish')
  end
  redis.call('UNLINK', run, run .. ':journal', run .. ':mailbox', run .. ':seen')
end
