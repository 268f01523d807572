#!lua flags=allow-oom
-- Give a new store its identity, or answer the one it has. Also where memory is full: workers
-- must come in to empty it.
-- KEYS  the key prefix of a partition
-- ARGV  the store's id, to be given where there is none ('' to give none), the schema version, the
--       number of partitions, '1' once every partition is known to have the id
-- Reply {store id, schema version, partitions, '1' once every partition has had the id}; nothing in
--       their places where there is no store
local p = KEYS[1]
local meta = p .. 'meta'
local is_there = redis.call('EXISTS', meta) == 1
if ARGV[1] ~= '' and not is_there then
  redis.call('HSET', meta, 'store', ARGV[1], 'schema', ARGV[2], 'partitions', ARGV[3])
elseif ARGV[4] == '1' and is_there then
  redis.call('HSET', meta, 'complete', '1')
end
return redis.call('HMGET', meta, 'store', 'schema', 'partitions', 'complete')
