#!lua flags=allow-oom
-- uses: clock, fence, close, index, counts
-- Take the end of a child into its parent's journal, and let the child's retention begin.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, time of the entry, rest of the entry without its payload, the
--       child's id, number of the message that told of it, room for the payload in bytes
-- Reply {flags, status, payload}; {'WAIT'} where it is not over; {'GONE'}; {'LARGE', bytes};
--       'FENCED'; 'ABANDONED'; 'DIVERGED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local born = p .. 'run:' .. ARGV[6]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news', 'ends')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local c = redis.call('HMGET', born, 'status', 'result', 'failure', 'workflow', 'held',
  'parent')
local to = c[1]
if not to or to == 'deleted' then
  return { 'GONE' }
end
if to ~= 'completed' and to ~= 'failed' and to ~= 'cancelled' then
  return { 'WAIT' }
end
local payload = (to == 'completed' and c[2] or c[3]) or ''
if #payload > tonumber(ARGV[8]) then
  return { 'LARGE', tostring(#payload) }
end
local size = redis.call('HSTRLEN', run .. ':mailbox', ARGV[7])
check_counts({ f[4] })
local kind = ({ completed = 'r', failed = 'f', cancelled = 'c' })[to]
local entry = kind .. ' ' .. ARGV[2] .. ' ' .. ARGV[4] .. ' 0 ' .. ARGV[5] .. payload
local word = close(run, ARGV[3], entry, ARGV[2])
if word then
  return word
end
if size > 0 then
  redis.call('HDEL', run .. ':mailbox', ARGV[7])
  redis.call('HINCRBY', run, 'ends', -1)
end
if c[5] and c[6] == ARGV[1] then -- and not a fork of its parent
  redis.call('HDEL', born, 'held')
  redis.pcall('ZADD', p .. 'index:' .. to .. '/' .. c[4], 'XX', ms(now()), ARGV[6])
end
return { flags(f[2], f[3]), to, payload }
