#!lua flags=allow-oom
-- uses: fence, counts
-- Take a query, or an update that was refused, out of a run's mailbox, and answer it. Nothing is
-- recorded; an update may be sent again under the same id.
-- KEYS  the key prefix
-- ARGV  run id, token, number of the message, its id where that is to be forgotten, else '', the
--       answer
-- Reply flags; 'FENCED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news', 'unread')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local size = redis.call('HSTRLEN', run .. ':mailbox', ARGV[3])
check_counts({ f[4] })
if size > 0 then
  if ARGV[4] ~= '' then
    redis.call('ZREM', run .. ':seen', ARGV[4])
  end
  redis.call('HDEL', run .. ':mailbox', ARGV[3])
  redis.call('HINCRBY', run, 'unread', -size)
end
redis.pcall('PUBLISH', p .. 'look:' .. ARGV[1], ARGV[5])
return flags(f[2], f[3])
