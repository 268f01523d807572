#!lua
-- uses: ready
-- Start runs, each once per id, and once per idempotency key while that run is kept.
-- KEYS  the key prefix
-- ARGV  store id, then of each run: id, workflow, version, pool, input,
--       idempotency key ('' for none), hash of version and input
-- Reply {'STORE'} where this is another store than the caller knows; else for each run
--       {'OK', run id}, {'CONFLICT', run id} for the same key with another input, or
--       {'REFUSED', why} where its keys are damaged and nothing was changed
-- From  no status -> queued
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end

local function start(id, workflow, version, pool, input, key, hash)
  local run = p .. 'run:' .. id
  if redis.call('HGET', run, 'status') then
    return { 'OK', id }
  end
  local reference = ''
  if key ~= '' then
    reference = 'idem:' .. workflow .. ':' .. key
    local known = redis.call('HMGET', p .. reference, 'run', 'hash')
    if known[1] then
      return { known[2] == hash and 'OK' or 'CONFLICT', known[1] }
    end
  end
  local entry = add_entry(stream_of({ workflow, version, pool }), id, '0')
  local at = string.match(entry, '^%d+') -- an entry's id begins with the server's time
  redis.call('HSET', run, 'workflow', workflow, 'version', version, 'pool', pool, 'input', input,
    'status', 'queued', 'created', at, 'since', at, 'epoch', '0', 'entry', entry)
  if reference ~= '' then
    redis.call('HSET', p .. reference, 'run', id, 'hash', hash)
    redis.call('HSET', run, 'reference', reference)
  end
  redis.pcall('ZADD', p .. 'index:active/' .. workflow, at, id)
  return { 'OK', id }
end

local reply = {}
for i = 2, #ARGV, 7 do
  -- What is damaged of one is found before its first write, and holds up no other.
  local done, word = pcall(start, unpack(ARGV, i, i + 6))
  reply[#reply + 1] = done and word or { 'REFUSED', tostring(type(word) == 'table' and word.err or word) }
end
return reply
