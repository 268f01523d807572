#!lua
-- uses: ready
-- Start a run, once per id, and once per idempotency key while that run is kept.
-- KEYS  the key prefix
-- ARGV  store id, run id, workflow, version, pool, input,
--       idempotency key ('' for none), hash of version and input
-- Reply {'OK', run id}, {'CONFLICT', run id} for the same key with another input, or
--       {'STORE'} where this is another store than the caller knows
-- From  no status -> queued
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end
local id, workflow, version, pool = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local run = p .. 'run:' .. id
if redis.call('HGET', run, 'status') then
  return { 'OK', id }
end
local reference = ''
if ARGV[7] ~= '' then
  reference = 'idem:' .. workflow .. ':' .. ARGV[7]
  local known = redis.call('HMGET', p .. reference, 'run', 'hash')
  if known[1] then
    return { known[2] == ARGV[8] and 'OK' or 'CONFLICT', known[1] }
  end
end
local entry = add_entry(stream_of({ workflow, version, pool }), id, '0')
local at = string.match(entry, '^%d+') -- an entry's id begins with the server's time
redis.call('HSET', run, 'workflow', workflow, 'version', version, 'pool', pool, 'input', ARGV[6],
  'status', 'queued', 'created', at, 'since', at, 'epoch', '0', 'entry', entry)
if reference ~= '' then
  redis.call('HSET', p .. reference, 'run', id, 'hash', ARGV[8])
  redis.call('HSET', run, 'reference', reference)
end
redis.pcall('ZADD', p .. 'index:active/' .. workflow, at, id)
return { 'OK', id }
