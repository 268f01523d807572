#!lua flags=allow-oom
-- uses: clock, fence, index
-- Let a run leave its worker until something in the store wakes it: the first of its recorded
-- times, or news.
-- KEYS  the key prefix
-- ARGV  run id, token, incarnation, status, the news that its owner has seen, all that it waits
--       for (address#n to a line), then address#n of each open entry that has a time
-- Reply 'PARKED'; 'STAY' where a time has come, or news or a cancel, or it is to be paused and
--       handed back; 'FENCED'
-- From  running -> the status
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'token', 'cancel', 'cancel_at', 'workflow', 'quarantine',
  'news', 'pause')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
if (f[2] and not f[3]) or (tonumber(f[6]) or 0) > tonumber(ARGV[5]) or f[7] == '1' then
  return 'STAY'
end
local at = now()
local first
for i = 7, #ARGV do
  local value = redis.call('HGET', run .. ':journal', ARGV[i])
  local kind, _, _, due = entry_head(value or '')
  if kind ~= 'o' or tonumber(due) <= at then
    return 'STAY'
  end
  first = math.min(first or tonumber(due), tonumber(due))
end
if first then
  redis.call('ZADD', p .. 'timers', ms(first), id)
end
redis.call('HSET', run, 'status', ARGV[4], 'since', ms(at), 'owner', '', 'token', '',
  'wake', first and ms(first) or '', 'waits', ARGV[6])
redis.pcall('SREM', p .. 'worker:' .. ARGV[3] .. ':runs', id)
move(id, f[4], 'running', ARGV[4], ms(at))
if f[5] == '1' then
  redis.pcall('ZREM', p .. 'quarantine', id) -- until it is woken; nobody need wait there for it
end
if first and redis.call('ZRANGE', p .. 'timers', 0, 0)[1] == id then
  redis.pcall('PUBLISH', p .. 'timers', ms(first - at))
end
return 'PARKED'
