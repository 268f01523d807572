#!lua flags=allow-oom
-- uses: fence, close, counts
-- Take a message out of a run's mailbox, into its journal.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, entry (of kind r or f), number of the message
-- Reply flags; 'FENCED'; 'ABANDONED'; 'DIVERGED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news', 'unread')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local size = redis.call('HSTRLEN', run .. ':mailbox', ARGV[5])
check_counts({ f[4] })
local word = close(run, ARGV[3], ARGV[4], ARGV[2])
if word then
  return word
end
if size > 0 then
  redis.call('HDEL', run .. ':mailbox', ARGV[5])
  redis.call('HINCRBY', run, 'unread', -size)
end
return flags(f[2], f[3])
