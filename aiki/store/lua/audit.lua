#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail, final, family, check, fence
-- Look at some keys, or at some members of one key, for what should not be, and mend of it what the
-- sweep would if that is asked for. Without, nothing is written.
-- KEYS  the key prefix
-- ARGV  the key whose members are meant, without the prefix; '' for keys themselves;
--       where to go on, as the last reply told, '0' to begin; about how many;
--       1 to mend
-- Reply {where to go on, '0' at the end, {keys that were looked at, without the prefix},
--        {run id or key, words, 1 if it can be mended, ...}}
-- From  queued, running, any that waits -> queued, where it is to mend
local p = KEYS[1]
local of, cursor, count, is_to_mend = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local findings = {}
found = function(what, words, mend)
  if mend and is_to_mend then
    mend()
  end
  local n = #findings
  findings[n + 1], findings[n + 2], findings[n + 3] = what, words, mend and '1' or '0'
end

local KNOWN = { scheduled = true, queued = true, running = true, paused = true, stalled = true,
  completed = true, failed = true, cancelled = true }

-- What is true of a record whatever is around it. Nothing else could tell what it should be.
local function check_record(id)
  local run = p .. 'run:' .. id
  local f = redis.call('HMGET', run, 'status', 'workflow', 'version', 'pool', 'epoch', 'since',
    'token', 'pause', 'streams')
  local status = f[1]
  if status == 'deleted' then
    return
  end
  for i, field in ipairs({ 'status', 'workflow', 'version', 'pool', 'epoch', 'since' }) do
    if not f[i] then
      return found(id, 'has no ' .. field)
    end
  end
  if not KNOWN[status] and not WAITS[status] then
    return found(id, 'has a status that is none: ' .. status)
  end
  if (string.match(f[7] or '', '^%d') ~= nil) ~= (status == 'running') then
    found(id, status == 'running' and 'is running and has no token' or 'has a token and no owner')
  end
  if f[8] == '1' and (status == 'queued' or WAITS[status]) then
    found(id, 'is to be paused and is not')
  end
  if FINAL[status]
    and redis.call('HEXISTS', run, 'result') + redis.call('HEXISTS', run, 'failure') ~= 1 then
    found(id, 'is over and has not one outcome')
  end
  for chunks, topic in string.gmatch(f[9] or '', '%S+ (%d+) %S+ ([^\n]+)') do
    if redis.call('XLEN', run .. ':stream:' .. topic) ~= tonumber(chunks) then
      found(id, 'has not as many chunks in its stream ' .. topic .. ' as it noted')
    end
  end
  check_run(id)
end

local function check_key(name)
  local id, part = string.match(name, '^run:([^:]+)(.*)$')
  local schedule = string.match(name, '^schedule:(.+)$')
  if not check_type(name) then
    return
  elseif id and part == '' then
    check_record(id)
  elseif id then
    local status = redis.call('HGET', p .. 'run:' .. id, 'status')
    if (not status or status == 'deleted')
      and not (part == ':children' and redis.call('SISMEMBER', p .. 'cascades', id) == 1) then
      found(name, 'is of a run that does not exist')
    end
  elseif schedule then
    check_schedule(schedule)
  elseif string.find(name, '^worker:') then
    check_worker(name)
  elseif string.find(name, '^idem:') then
    local run = redis.call('HGET', p .. name, 'run') or ''
    if redis.call('HGET', p .. 'run:' .. run, 'reference') ~= name then
      found(name, 'names the run ' .. run .. ', which has another key or none')
    end
  end
end

-- Gives the members of a page without what stands behind each.
local function every_second(items)
  local members = {}
  for i = 1, #items, 2 do
    members[#members + 1] = items[i]
  end
  return members
end

local function check_leases(workers)
  for _, worker in ipairs(workers) do
    if redis.call('EXISTS', p .. 'worker:' .. worker) == 0 then
      found('worker ' .. worker, 'has a lease and has said nothing of itself')
    end
  end
end

local function check_owned(ids)
  local owner = string.match(of, '^worker:(.*):runs$')
  for _, id in ipairs(ids) do
    local f = redis.call('HMGET', p .. 'run:' .. id, 'status', 'owner')
    if f[1] ~= 'running' or f[2] ~= owner then
      found(id, 'is among the runs of worker ' .. owner .. ', which does not own it')
    end
  end
end

local function check_entries(page)
  local id = string.match(of, '^run:([^:]+):')
  for i = 1, #page, 2 do
    if not entry_head(page[i + 1]) then
      found(id, 'has a journal entry that cannot be read: ' .. page[i])
    end
  end
end

local function check_offers()
  local page = redis.call('XRANGE', p .. of, cursor == '0' and '-' or '(' .. cursor, '+', 'COUNT',
    count)
  for _, entry in ipairs(page) do
    local id, epoch = entry[2][2], entry[2][4]
    local f = redis.call('HMGET', p .. 'run:' .. id, 'status', 'epoch', 'entry')
    if f[1] == 'queued' and f[2] == epoch and f[3] ~= entry[1] then
      found(id, 'is offered twice, by ' .. of)
    end
  end
  return #page == tonumber(count) and page[#page][1] or '0'
end

-- Each part gives where to go on.
local function check_part()
  local key, page = p .. of, { '0' }
  if kind_of(of) == 'zset' then
    page = redis.call('ZSCAN', key, cursor, 'COUNT', count)
    check_members(of, every_second(page[2]))
  elseif of == 'workers' then
    page = redis.call('ZSCAN', key, cursor, 'COUNT', count)
    check_leases(every_second(page[2]))
  elseif string.find(of, '^worker:.*:runs$') then
    page = redis.call('SSCAN', key, cursor, 'COUNT', count)
    check_owned(page[2])
  elseif string.find(of, '^run:[^:]+:journal$') then
    page = redis.call('HSCAN', key, cursor, 'COUNT', count)
    check_entries(page[2])
  elseif string.find(of, '^ready:') then
    return check_offers()
  end
  return page[1]
end

-- A damaged key must not keep the others from being looked at.
local function attempt(name, check)
  local is_done, result = pcall(check, name)
  if is_done then
    return result
  end
  local reason = type(result) == 'table' and result.err or tostring(result)
  found(name, 'cannot be checked: ' .. string.match(reason, '^[^\n]*'))
  return '0'
end

if of ~= '' then
  return { attempt(of, check_part), {}, findings }
end
local glob = string.gsub(p, '[%*%?%[%]%^\\]', '\\%0') .. '*'
local page = redis.call('SCAN', cursor, 'MATCH', glob, 'COUNT', count)
local names = {}
for i, key in ipairs(page[2]) do
  names[i] = string.sub(key, #p + 1)
  attempt(names[i], check_key)
end
return { page[1], names, findings }
