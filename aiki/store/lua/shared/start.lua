-- start(id, workflow, version, pool, input, key, hash, more): store a run and offer it, once per
-- id, and once per idempotency key ('' for none) while the run that has it is kept; `hash` is that
-- of version and input. Gives {'OK', run id}, or {'CONFLICT', run id} for a key with another input, or
-- {'GONE', run id} for a run that was deleted.
-- Whatever can fail comes before the first write.
-- `more` ('' or nil for nothing) is what few runs have: lines of a name and a value.
--   at      when to offer it: ms of the server's clock, or +ms from now; till then it is scheduled
--   start   by when it must have been claimed: ms of the server's clock, or +ms from `at`
--   finish  by when it must be over, likewise
--   tag     to list it by; there may be several
--   memo    JSON, only to be shown
local function time_of(text, from)
  local after = string.match(text, '^%+(%d+)$')
  return after and from + after or tonumber(text)
end
local function read_more(id, more)
  local f, tags, record, timers = {}, {}, {}, {}
  for name, value in string.gmatch(more, '(%a+) ([^\n]*)') do
    if name == 'tag' then
      tags[#tags + 1] = value
    else
      f[name] = value
    end
  end
  local at = now()
  local due = math.max(at, time_of(f.at or '+0', at))
  if due > at then
    timers = { ms(due), id }
  end
  for _, name in ipairs({ 'start', 'finish' }) do
    if f[name] then
      local by = ms(time_of(f[name], due))
      timers[#timers + 1], timers[#timers + 2] = by, id .. '!' .. name
      record[#record + 1], record[#record + 2] = name .. '_by', by
    end
  end
  if #tags > 0 then
    record[#record + 1], record[#record + 2] = 'tags', table.concat(tags, '\n')
  end
  if f.memo then
    record[#record + 1], record[#record + 2] = 'memo', f.memo
  end
  return at, due, record, timers, tags
end
local function start(id, workflow, version, pool, input, key, hash, more)
  local run = p .. 'run:' .. id
  local status = redis.call('HGET', run, 'status')
  if status then
    return { status == 'deleted' and 'GONE' or 'OK', id }
  end
  local reference = ''
  if key ~= '' then
    reference = 'idem:' .. workflow .. ':' .. key
    local known = redis.call('HMGET', p .. reference, 'run', 'hash')
    if known[1] then
      return { known[2] == hash and 'OK' or 'CONFLICT', known[1] }
    end
  end
  local stream = stream_of({ workflow, version, pool })
  local at, due, record, timers, tags
  if more and more ~= '' then
    at, due, record, timers, tags = read_more(id, more)
    redis.call('XLEN', p .. stream)
    redis.call('SCARD', p .. 'streams')
    if #timers > 0 then
      redis.call('ZADD', p .. 'timers', unpack(timers))
    end
  end
  local listed, field, value
  status, listed, field, value = 'queued', 'active', 'entry', nil
  if due and due > at then
    open_stream(stream) -- what is listed is looked for by the names of the streams
    status, listed, field, value, at = 'scheduled', 'scheduled', 'wake', ms(due), ms(at)
  else
    value = add_entry(stream, id, '0')
    at = string.match(value, '^%d+') -- an entry's id begins with the server's time
  end
  redis.call('HSET', run, 'workflow', workflow, 'version', version, 'pool', pool, 'input', input,
    'status', status, 'created', at, 'since', at, 'epoch', '0', field, value)
  if reference ~= '' then
    redis.call('HSET', p .. reference, 'run', id, 'hash', hash)
    redis.call('HSET', run, 'reference', reference)
  end
  redis.pcall('ZADD', p .. 'index:' .. listed .. '/' .. workflow, at, id)
  if record then
    if #record > 0 then
      redis.call('HSET', run, unpack(record))
    end
    for _, tag in ipairs(tags) do
      redis.pcall('ZADD', p .. 'tag:' .. tag, at, id)
    end
    local first = #timers > 0 and redis.call('ZRANGE', p .. 'timers', 0, 0, 'WITHSCORES')
    if first and string.match(first[1], '^[^!]+') == id then
      redis.pcall('PUBLISH', p .. 'timers', ms(math.max(0, first[2] - at)))
    end
  end
  return { 'OK', id }
end
