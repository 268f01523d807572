#!lua
-- uses: clock, ready, start
-- Start runs, each once per id, and once per idempotency key while that run is kept.
-- KEYS  the key prefix
-- ARGV  store id, then of each run: id, workflow, version, pool, input,
--       idempotency key ('' for none), hash of version and input, what few runs have ('' for
--       nothing): when to start, deadlines, tags, memo, as shared/start.lua says
-- Reply {'STORE'} where this is another store than the caller knows; else for each run
--       {'OK', run id}, {'CONFLICT', run id} for the same key with another input,
--       {'GONE', run id} for a run that was deleted, or {'REFUSED', why} where its keys are
--       damaged and nothing was changed
-- From  no status -> queued, scheduled
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end

local reply = {}
for i = 2, #ARGV, 8 do
  -- What is damaged of one is found before its first write, and holds up no other.
  local done, word = pcall(start, unpack(ARGV, i, i + 7))
  reply[#reply + 1] = done and word or { 'REFUSED', tostring(type(word) == 'table' and word.err or word) }
end
return reply
