#!lua flags=allow-oom
-- Read chunks of a stream, and whether more may come: of a run that is over, none do.
-- KEYS  the key prefix
-- ARGV  run id, topic, the id of the first chunk that is wanted, how many at most
-- Reply {status, what the owner notes of the run's streams, chunks}; {'NONE'}
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'status', 'streams')
if not f[1] or f[1] == 'deleted' then
  return { 'NONE' }
end
local chunks = {}
local key = run .. ':stream:' .. ARGV[2]
for _, found in ipairs(redis.call('XRANGE', key, ARGV[3], '+', 'COUNT', ARGV[4])) do
  chunks[#chunks + 1] = found[2][2]
end
return { f[1], f[2] or '', chunks }
