#!lua flags=allow-oom
-- Give a new store its identity, or answer the one it has. Also where memory is full: workers
-- must come in to empty it.
-- KEYS  the key prefix of the first partition
-- ARGV  a fresh store id ('' to make none), the schema version, the number of partitions
-- Reply {store id, schema version, partitions}; nothing in their places where there is no store
local p = KEYS[1]
local meta = p .. 'meta'
if ARGV[1] ~= '' and redis.call('EXISTS', meta) == 0 then
  redis.call('HSET', meta, 'store', ARGV[1], 'schema', ARGV[2], 'partitions', ARGV[3])
end
return redis.call('HMGET', meta, 'store', 'schema', 'partitions')
