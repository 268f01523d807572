-- start(id, workflow, version, pool, input, key, hash): store a run and offer it, once per id, and
-- once per idempotency key ('' for none) while the run that has it is kept; `hash` is that of
-- version and input. Gives {'OK', run id}, or {'CONFLICT', run id} for a key with another input.
-- Whatever can fail comes before the first write.
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
