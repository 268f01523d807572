#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue
-- Queue the runs whose wait is over.
-- KEYS  the key prefix
-- ARGV  how many at most
-- Reply {runs queued, ms until the next timer or ''}
-- From  a status that waits -> queued; of any other status only the timer is removed
local p = KEYS[1]
local at = now()
local due = redis.call('ZRANGE', p .. 'timers', '-inf', ms(at), 'BYSCORE', 'LIMIT', '0', ARGV[1])
local woken, over = 0, {}
local function wake(id)
  local run = p .. 'run:' .. id
  -- As enqueue needs it, with the status behind
  local r = redis.call('HMGET', run, 'workflow', 'version', 'pool', 'epoch', 'quarantine', 'status')
  if WAITS[r[6]] then
    enqueue(id, run, r, r[6], ms(at))
    woken = woken + 1
  end
  over[#over + 1] = id
end
for _, id in ipairs(due) do
  if not pcall(wake, id) then
    redis.call('ZADD', p .. 'timers', ms(at + 10000), id) -- a damaged run holds nobody up
  end
end
if #over > 0 then
  redis.call('ZREM', p .. 'timers', unpack(over))
end
local nearest = redis.call('ZRANGE', p .. 'timers', 0, 0, 'WITHSCORES')
return { woken, nearest[2] and ms(math.max(0, nearest[2] - at)) or '' }
