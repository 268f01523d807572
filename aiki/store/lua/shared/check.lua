-- What must hold of one key, judged by the run records. Whoever uses this says what to do about
-- what should not be:
-- found(what, words, mend): run id or key, words, and a function that mends it, if anything can.
-- kind_of(name): the type of an index, which can be made anew from the records.
-- check_type(name): whether the key of an index is one.
-- check_run(id): a run that nothing will ever move, or that is not listed as its record says.
-- check_schedule(id): likewise.
-- check_worker(name): what a worker owns or reads, of one that has no lease.
-- check_members(name, members): members of an index that the records do not bear out.
local found

local function can_be_told(run)
  local k = redis.call('HMGET', run, 'parent', 'slot')
  local parent = p .. 'run:' .. k[1]
  local status = redis.call('HGET', parent, 'status')
  local map = k[2] and string.match(k[2], '^(.*)/%d+$')
  return hears(status)
    and (not map or redis.call('HEXISTS', parent .. ':map:' .. map, 'strict') == 1)
end

local function check_end_of(id, child, run, f, at)
  local c = redis.call('HMGET', p .. 'run:' .. child, 'status', 'parent')
  local to = c[1]
  if to and not FINAL[to] then
    return false
  end
  found(id, 'was not told of the end of its child ' .. child, function()
    if c[2] == id then
      told_parent(child, p .. 'run:' .. child, to, at)
    else -- it is gone, or told the run that this one is a fork of
      put_mail(id, run, f, 'end/' .. child .. '\n' .. (c[2] and to or 'gone'), at, 'ends')
    end
  end)
  return true
end

local function check_run(id)
  local run, at = p .. 'run:' .. id, ms(now())
  local r = queue_fields(run)
  local f = redis.call('HMGET', run, 'status', 'owner', 'entry', 'wake', 'since', 'tags', 'created',
    'start_by', 'finish_by', 'cancel', 'waits', 'kin', 'parent', 'held')
  local status = f[1]
  if not status or not r[1] then
    return
  end
  local index = p .. 'index:' .. listed_as(status) .. '/' .. r[1]
  if not redis.call('ZSCORE', index, id) then
    found(id, 'was not listed as ' .. status, function() redis.call('ZADD', index, f[5], id) end)
  end
  for tag in string.gmatch(f[6] or '', '[^\n]+') do
    if redis.pcall('ZSCORE', p .. 'tag:' .. tag, id) == false then
      found(id, 'was not listed by its tag ' .. tag, function()
        redis.call('ZADD', p .. 'tag:' .. tag, f[7], id)
      end)
    end
  end
  local is_over, kin = FINAL[status], f[12] or ''
  for name, by in pairs({ start = r[4] == '0' and f[8], finish = f[9] }) do
    if by and not f[10] and not is_over
      and not redis.call('ZSCORE', p .. 'timers', id .. '!' .. name) then
      found(id, 'had no timer for its deadline', function()
        redis.call('ZADD', p .. 'timers', by, id .. '!' .. name)
      end)
    end
  end
  if r[5] == '1' and listed_as(status) == 'active'
    and not redis.call('ZSCORE', p .. 'quarantine', id) then
    found(id, 'was missing from the quarantine', function()
      redis.call('ZADD', p .. 'quarantine', f[5], id)
    end)
  end
  if status == 'queued' then
    local entry = f[3] and f[3] ~= '' and redis.call('XRANGE', p .. stream_of(r), f[3], f[3])[1]
    if not entry then
      found(id, 'was queued without a ready entry', function() enqueue(id, run, r, 'queued', at) end)
    end
  elseif status == 'running' then
    local owned = p .. 'worker:' .. f[2] .. ':runs'
    if not redis.call('ZSCORE', p .. 'workers', f[2]) then
      found(id, 'was running without an owner', function()
        r[4] = ms(r[4] + 1)
        enqueue(id, run, r, 'running', at)
      end)
    elseif redis.call('SISMEMBER', owned, id) == 0 then
      found(id, 'was missing from the runs of its owner', function()
        redis.call('SADD', owned, id)
      end)
    end
  elseif WAITS[status] or status == 'scheduled' then
    if f[4] ~= '' and not redis.call('ZSCORE', p .. 'timers', id) then
      found(id, 'was waiting without a timer', function()
        redis.call('ZADD', p .. 'timers', f[4] or at, id)
      end)
    end
    for child in string.gmatch(f[11] or '', 'end/([^#\n]+)#') do
      if check_end_of(id, child, run, f, at) then
        break -- that has it queued; what else ended it will see by itself
      end
    end
  end
  if is_over and string.find(kin, 'p') and not f[14]
    and redis.call('HGET', p .. 'run:' .. f[13] .. ':children', id) and can_be_told(run) then
    found(id, 'had not told its parent that it is over', function()
      told_parent(id, run, status, at)
    end)
  end
  if is_over and string.find(kin, 'c') and redis.call('EXISTS', run .. ':children') == 1
    and redis.call('SISMEMBER', p .. 'cascades', id) == 0 then
    found(id, 'had children that nobody would look after', function()
      redis.call('SADD', p .. 'cascades', id)
    end)
  end
end

-- Whoever looks after schedules goes by their index alone.
local function check_schedule(id)
  local f = redis.call('HMGET', p .. 'schedule:' .. id, 'due', 'paused')
  local score = redis.call('ZSCORE', p .. 'schedules', id)
  if f[1] and (not score or (score == 'inf') ~= (f[2] == '1')) then
    found('schedule ' .. id, 'was not listed by when it is due', function()
      redis.call('ZADD', p .. 'schedules', f[2] == '1' and '+inf' or f[1], id)
    end)
  end
end

local function kind_of(name)
  if string.match(name, '^worker:[^:]+:%a+$') or name == 'cascades' then
    return 'set'
  elseif string.match(name, '^index:[^/]+/') or string.match(name, '^tag:.')
    or name == 'timers' or name == 'quarantine' or name == 'schedules' then
    return 'zset'
  end
end

local function check_type(name)
  local expected = kind_of(name)
  local kind = expected and redis.call('TYPE', p .. name).ok
  if kind == expected then
    return true
  elseif kind ~= 'none' then -- else what was mended just now was the last of it
    found(name, 'was a ' .. kind, function() redis.call('UNLINK', p .. name) end)
  end
  return false
end

local function check_worker(name)
  local worker = string.match(name, '^worker:([^:]+):')
  if worker and not redis.call('ZSCORE', p .. 'workers', worker) then
    found(name, 'was of a worker that is gone', function() redis.call('UNLINK', p .. name) end)
  end
end

local function belongs(name, f, deadline)
  local listed, tag = string.match(name, '^index:([^/]+)/'), string.match(name, '^tag:(.+)$')
  if listed then
    return listed_as(f[1]) == listed, 'was listed as ' .. listed .. ' and is not'
  elseif tag then
    return string.find('\n' .. (f[3] or '') .. '\n', '\n' .. tag .. '\n', 1, true),
      'was listed by the tag ' .. tag
  elseif name == 'quarantine' then
    return f[2] == '1' and listed_as(f[1]) == 'active', 'was counted in the quarantine'
  elseif deadline ~= '' then -- that of a run that is over stays until it falls due
    return f[deadline == 'start' and 4 or 5], 'had a deadline that is none'
  end
  return WAITS[f[1]] or f[1] == 'scheduled', 'had a timer and waits for none'
end

local function check_members(name, members)
  for _, member in ipairs(members) do
    local is_right, words, id
    if name == 'schedules' then
      id = 'schedule ' .. member
      is_right = redis.call('EXISTS', p .. 'schedule:' .. member) == 1
      words = 'was listed and does not exist'
    else
      local deadline
      id, deadline = string.match(member, '^([^!]*)!?(.*)$')
      local f = redis.call('HMGET', p .. 'run:' .. id, 'status', 'quarantine', 'tags', 'start_by',
        'finish_by')
      is_right, words = belongs(name, f, deadline)
    end
    if not is_right then
      found(id, words, function() redis.call('ZREM', p .. name, member) end)
    end
  end
end
