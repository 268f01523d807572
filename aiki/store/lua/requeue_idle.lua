#!lua flags=allow-oom
-- uses: again
-- Add ready entries anew that were delivered and not claimed for too long. A consumer that is
-- merely slow and claims one later is answered by the run's record. Consumers that have no lease
-- and nothing pending are deleted: a worker that was given up and reads once more makes them.
-- KEYS  the key prefix
-- ARGV  idle time in ms, how many per stream at most
-- Reply entries added anew
local p = KEYS[1]
local moved = 0

local function look_at(stream)
  local idle = redis.call('XPENDING', p .. stream, 'workers', 'IDLE', ARGV[1], '-', '+', ARGV[2])
  for _, item in ipairs(idle) do
    again(stream, item[1])
    moved = moved + 1
  end
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', p .. stream, 'workers')) do
    local name, pending, quiet = consumer[2], consumer[4], consumer[6]
    if pending == 0 and quiet >= tonumber(ARGV[1])
      and not redis.call('ZSCORE', p .. 'workers', name) then
      redis.call('XGROUP', 'DELCONSUMER', p .. stream, 'workers', name)
    end
  end
end

for _, stream in ipairs(redis.call('SMEMBERS', p .. 'streams')) do
  pcall(look_at, stream) -- a damaged stream holds nobody up
end
return moved
