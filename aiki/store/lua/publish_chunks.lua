#!lua flags=allow-oom
-- uses: fence
-- Append chunks to the streams of a run, and have those look who read them.
-- KEYS  the key prefix
-- ARGV  run id, token, how many chunks the run has published before these and with them, what its
--       owner notes of its streams, then of each chunk: topic, id, chunk; an id is "0-" and the
--       chunk's place in its stream, from 1
-- Reply flags; 'FENCED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'cancel', 'news', 'chunks')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
if (f[4] or '0') == ARGV[3] then
  local known
  for i = 6, #ARGV, 3 do
    if ARGV[i] ~= known then
      known = ARGV[i]
      redis.call('XLEN', run .. ':stream:' .. known) -- it is a stream, or nothing is done
    end
  end
  redis.call('HSET', run, 'chunks', ARGV[4], 'streams', ARGV[5])
  for i = 6, #ARGV, 3 do
    redis.pcall('XADD', run .. ':stream:' .. ARGV[i], ARGV[i + 1], 'c', ARGV[i + 2])
  end
  redis.pcall('PUBLISH', p .. 'look:' .. ARGV[1], '')
end
return flags(f[2], f[3])
