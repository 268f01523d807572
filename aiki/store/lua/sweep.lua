#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue, stir, mail, family
-- Look slowly through the store for what should not be, and mend it from the run records:
-- a run that nothing will ever move, an index or timer entry that its record does not bear out,
-- an index that is none; and likewise a schedule that nobody would look at.
-- The place reached is kept in `sweep`, so that all housekeepers make one walk together.
-- KEYS  the key prefix
-- ARGV  ms between two steps, keys per step
-- Reply what was mended: run id or key, words, run id or key, words, ...; empty where it is not
--       time yet
-- From  queued, running, any that waits -> queued
local p = KEYS[1]
local at = now()
local state = redis.call('HMGET', p .. 'sweep', 'next', 'cursor')
if state[1] and tonumber(state[1]) > at then
  return {}
end
local glob = string.gsub(p, '[%*%?%[%]%^\\]', '\\%0') .. '*'
local page = redis.call('SCAN', state[2] or '0', 'MATCH', glob, 'COUNT', ARGV[2])
redis.call('HSET', p .. 'sweep', 'next', ms(at + ARGV[1]), 'cursor', page[1])
local mended = {}
local function mend(what, words)
  mended[#mended + 1] = what
  mended[#mended + 1] = words
end

local function check_run(id, run)
  local r = queue_fields(run)
  local f = redis.call('HMGET', run, 'status', 'owner', 'entry', 'wake', 'since', 'tags', 'created',
    'start_by', 'finish_by', 'cancel', 'waits', 'kin', 'parent', 'held')
  local status = f[1]
  if not status or not r[1] then
    return
  end
  local index = p .. 'index:' .. listed_as(status) .. '/' .. r[1]
  if not redis.call('ZSCORE', index, id) then
    redis.call('ZADD', index, f[5], id)
    mend(id, 'was not listed as ' .. status)
  end
  for tag in string.gmatch(f[6] or '', '[^\n]+') do
    if redis.pcall('ZADD', p .. 'tag:' .. tag, 'NX', f[7], id) == 1 then
      mend(id, 'was not listed by its tag ' .. tag)
    end
  end
  local is_over, kin = FINAL[status], f[12] or ''
  for name, by in pairs({ start = r[4] == '0' and f[8], finish = f[9] }) do
    if by and not f[10] and not is_over
      and redis.call('ZADD', p .. 'timers', 'NX', by, id .. '!' .. name) == 1 then
      mend(id, 'had no timer for its deadline')
    end
  end
  if r[5] == '1' and listed_as(status) == 'active'
    and redis.call('ZADD', p .. 'quarantine', 'NX', f[5], id) == 1 then
    mend(id, 'was missing from the quarantine')
  end
  if status == 'queued' then
    local entry = f[3] and f[3] ~= '' and redis.call('XRANGE', p .. stream_of(r), f[3], f[3])[1]
    if not entry then
      enqueue(id, run, r, 'queued', ms(at))
      mend(id, 'was queued without a ready entry')
    end
  elseif status == 'running' then
    if not redis.call('ZSCORE', p .. 'workers', f[2]) then
      r[4] = ms(r[4] + 1)
      enqueue(id, run, r, 'running', ms(at))
      mend(id, 'was running without an owner')
    elseif redis.call('SADD', p .. 'worker:' .. f[2] .. ':runs', id) == 1 then
      mend(id, 'was missing from the runs of its owner')
    end
  elseif WAITS[status] or status == 'scheduled' then
    if f[4] ~= '' and not redis.call('ZSCORE', p .. 'timers', id) then
      redis.call('ZADD', p .. 'timers', f[4] or ms(at), id)
      mend(id, 'was waiting without a timer')
    end
    for child in string.gmatch(f[11] or '', 'end/([^#\n]+)#') do
      local to = redis.call('HGET', p .. 'run:' .. child, 'status')
      if not to or FINAL[to] then
        if to then
          told_parent(child, p .. 'run:' .. child, to, ms(at))
        else
          put_mail(id, run, f, 'end/' .. child .. '\ngone', ms(at), 'ends')
        end
        mend(id, 'was not told of the end of its child ' .. child)
        break
      end
    end
  end
  if is_over and string.find(kin, 'p') and not f[14]
    and redis.call('HGET', p .. 'run:' .. f[13] .. ':children', id) then
    told_parent(id, run, status, ms(at))
    if redis.call('HGET', run, 'held') then
      mend(id, 'had not told its parent that it is over')
    end
  end
  if is_over and string.find(kin, 'c') and redis.call('EXISTS', run .. ':children') == 1
    and redis.call('SADD', p .. 'cascades', id) == 1 then
    mend(id, 'had children that nobody would look after')
  end
end

-- Whoever looks after schedules goes by their index alone.
local function check_schedule(id, key)
  local f = redis.call('HMGET', key, 'due', 'paused')
  local score = redis.call('ZSCORE', p .. 'schedules', id)
  if f[1] and (not score or (score == 'inf') ~= (f[2] == '1')) then
    redis.call('ZADD', p .. 'schedules', f[2] == '1' and '+inf' or f[1], id)
    mend('schedule ' .. id, 'was not listed by when it is due')
  end
end

-- Stray entries of a listing are never taken off by a move, so they gather among the oldest.
-- Of timers, tags and quarantine any may be stray, so they are drawn at random.
local function check_members(members, key, words, belongs)
  for _, member in ipairs(members) do
    local id, deadline = string.match(member, '^([^!]*)!?(.*)$')
    local f = redis.call('HMGET', p .. 'run:' .. id, 'status', 'quarantine', 'tags', 'start_by',
      'finish_by')
    if not belongs(f, deadline) then
      redis.call('ZREM', key, member)
      mend(id, deadline == '' and words or 'had a deadline that is none')
    end
  end
end

local function check(key)
  local name = string.sub(key, #p + 1)
  local id = string.match(name, '^run:([^:]+)$')
  local listed = string.match(name, '^index:([^/]+)/')
  local tag = string.match(name, '^tag:(.+)$')
  local is_set = string.match(name, '^worker:[^:]+:%a+$') or name == 'cascades'
  local schedule = string.match(name, '^schedule:(.+)$')
  local is_sorted = listed or tag or name == 'timers' or name == 'quarantine' or name == 'schedules'
  local kind = (is_set or is_sorted) and redis.call('TYPE', key).ok
  if kind == 'none' then
    return -- what was mended just now was the last of it
  elseif (is_set and kind ~= 'set') or (is_sorted and kind ~= 'zset') then
    redis.call('UNLINK', key)
    mend(name, 'was a ' .. kind)
  elseif id then
    check_run(id, key)
  elseif schedule then
    check_schedule(schedule, key)
  elseif listed then
    check_members(redis.call('ZRANGE', key, 0, 20), key, 'was listed as ' .. listed .. ' and is not',
      function(f) return listed_as(f[1]) == listed end)
  elseif tag then
    check_members(redis.call('ZRANDMEMBER', key, 20), key, 'was listed by the tag ' .. tag,
      function(f) return string.find('\n' .. (f[3] or '') .. '\n', '\n' .. tag .. '\n', 1, true) end)
  elseif name == 'timers' then
    check_members(redis.call('ZRANDMEMBER', key, 20), key, 'had a timer and waits for none',
      function(f, deadline)
        if deadline ~= '' then -- that of a run that is over stays until it falls due
          return f[deadline == 'start' and 4 or 5]
        end
        return WAITS[f[1]] or f[1] == 'scheduled'
      end)
  elseif name == 'quarantine' then
    check_members(redis.call('ZRANDMEMBER', key, 20), key, 'was counted in the quarantine',
      function(f) return f[2] == '1' and listed_as(f[1]) == 'active' end)
  elseif name == 'schedules' then
    for _, member in ipairs(redis.call('ZRANDMEMBER', key, 20)) do
      if redis.call('EXISTS', p .. 'schedule:' .. member) == 0 then
        redis.call('ZREM', key, member)
        mend('schedule ' .. member, 'was listed and does not exist')
      end
    end
  end
end

for _, key in ipairs(page[2]) do
  pcall(check, key) -- a damaged key must not keep the others from being looked at
end
return mended
