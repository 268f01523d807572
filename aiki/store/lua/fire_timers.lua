#!lua flags=allow-oom
-- uses: clock, waits, ready, served, index, enqueue, stir, counts, mail, final, family, conclude, finish, cancel
-- Queue the runs whose wait is over, and apply deadlines: the members `<id>!start`, which ends a run
-- that was never claimed, and `<id>!finish`, which asks any run to end.
-- KEYS  the key prefix
-- ARGV  how many at most
-- Reply {runs queued, ms until the next timer or ''}
-- From  scheduled or one that waits -> queued; of any other status only the timer is removed, but
--       for deadlines: as request_cancel
local p = KEYS[1]
local at = now()
local due = redis.call('ZRANGE', p .. 'timers', '-inf', ms(at), 'BYSCORE', 'LIMIT', '0', ARGV[1])
local woken, over = 0, {}
local function wake(id)
  local run = p .. 'run:' .. id
  -- As enqueue needs it, with the status behind
  local r = redis.call('HMGET', run, 'workflow', 'version', 'pool', 'epoch', 'quarantine', 'pause',
    'status')
  if WAITS[r[7]] or r[7] == 'scheduled' then
    enqueue(id, run, r, r[7], ms(at))
    woken = woken + 1
  end
end
local function fire(member)
  local id, deadline = string.match(member, '^([^!]*)!?(.*)$')
  if deadline == '' then
    wake(id)
  elseif deadline == 'finish' then
    cancel(id, 'deadline: it was not over in time', ms(at))
  elseif redis.call('HGET', p .. 'run:' .. id, 'epoch') == '0' then
    cancel(id, 'deadline: it was not started in time', ms(at))
  end
  over[#over + 1] = member
end
for _, member in ipairs(due) do
  if not pcall(fire, member) then
    redis.call('ZADD', p .. 'timers', ms(at + 10000), member) -- a damaged run holds nobody up
  end
end
if #over > 0 then
  redis.call('ZREM', p .. 'timers', unpack(over))
end
local nearest = redis.call('ZRANGE', p .. 'timers', 0, 0, 'WITHSCORES')
return { woken, nearest[2] and ms(math.max(0, nearest[2] - at)) or '' }
