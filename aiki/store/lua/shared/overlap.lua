-- What becomes of an occurrence while runs of its schedule are under way. Each of these writes
-- nothing of the schedule's record; write_schedule comes last.

-- Runs that are not over. A run that is damaged or gone holds up no schedule.
local function still_running(s)
  local alive = {}
  for _, id in ipairs(s.running) do
    local status = redis.pcall('HGET', p .. 'run:' .. id, 'status')
    if type(status) == 'string' and status ~= 'completed' and status ~= 'failed'
      and status ~= 'cancelled' and status ~= 'deleted' then
      alive[#alive + 1] = id
    end
  end
  return alive
end

local function begin(s, id, occurrence)
  start(id, s.workflow, s.version, s.pool, s.input, '', '', s.more)
  redis.call('HSET', p .. 'run:' .. id, 'schedule', s.id, 'occurrence', occurrence)
  s.running[#s.running + 1] = id
  s.recent[#s.recent + 1] = id .. ' ' .. occurrence
  s.started = s.started + 1
end

-- Let whoever fires schedules hear of the end of what a buffer waits for.
local function listen(s)
  local channel = p .. 'schedules'
  for _, id in ipairs(s.running) do
    local run = p .. 'run:' .. id
    local watchers = redis.call('HGET', run, 'watchers') or ''
    if not string.find(watchers, channel .. '\n', 1, true) then
      redis.call('HSET', run, 'watchers', watchers .. channel .. '\n')
    end
  end
end

-- to_cancel(s): the runs that must be asked to end before what is buffered may start.
local function to_cancel(s)
  local first = s.buffer[1]
  return first and string.match(first, ' cancel_other$') and s.running or {}
end

-- admit(s, policy, id, occurrence, at): start an occurrence as this run, or let it wait, or not.
-- Gives STARTED, BUFFERED, SKIPPED or DROPPED; of a run that is there already what it gave before.
local function admit(s, policy, id, occurrence, at)
  if redis.call('HGET', p .. 'run:' .. id, 'status') then
    return 'STARTED'
  end
  for _, line in ipairs(s.buffer) do
    if string.match(line, '^%S+') == id then
      return 'BUFFERED'
    end
  end
  if policy == 'allow_all' then
    begin(s, id, occurrence)
    return 'STARTED'
  end
  s.running = still_running(s)
  if #s.running == 0 and #s.buffer == 0 then
    begin(s, id, occurrence)
    return 'STARTED'
  end
  local others = s.running
  if policy == 'terminate_other' then
    s.running = {}
    begin(s, id, occurrence) -- first: it may fail, and then nothing was done
    for _, other in ipairs(others) do
      pcall(terminate, other, 'schedule ' .. s.id .. ' started run ' .. id .. ' instead', ms(at))
    end
    s.dropped = s.dropped + #s.buffer
    s.buffer = {}
    return 'STARTED'
  elseif policy == 'cancel_other' then
    s.dropped = s.dropped + #s.buffer
    s.buffer = {}
  elseif policy == 'buffer_all' and #s.buffer >= BUFFER then
    return 'DROPPED'
  elseif policy == 'skip' or (policy == 'buffer_one' and #s.buffer > 0) then
    return 'SKIPPED'
  end
  s.buffer[#s.buffer + 1] = id .. ' ' .. occurrence .. ' ' .. policy
  listen(s)
  return 'BUFFERED'
end
