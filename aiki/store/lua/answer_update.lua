#!lua flags=allow-oom
-- uses: fence, close
-- Record the answer to an update, and tell it to who waits for it.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, entry (of kind r or f), the answer as it is told
-- Reply flags; 'FENCED'; 'ABANDONED'; 'DIVERGED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local word = close(run, ARGV[3], ARGV[4], ARGV[2])
if word then
  return word
end
redis.pcall('PUBLISH', p .. 'look:' .. ARGV[1], ARGV[5])
return flags(f[2], f[3])
