#!lua flags=allow-oom
-- Read exactly as many ready entries as wanted from many streams, in the order given. A plain
-- XREADGROUP counts per stream and would deliver more than there are free slots.
-- KEYS  the key prefix
-- ARGV  incarnation, how many, streams (without prefix)
-- Reply {stream, {{entry id, fields}, ...}} per stream that had any
local p = KEYS[1]
local left = tonumber(ARGV[2])
local found = {}
for i = 3, #ARGV do
  if left == 0 then
    break
  end
  -- What one stream gave must not be lost because the next is damaged.
  local reply = redis.pcall('XREADGROUP', 'GROUP', 'workers', ARGV[1], 'COUNT', left, 'STREAMS',
    p .. ARGV[i], '>')
  if reply and not reply.err then
    left = left - #reply[1][2]
    found[#found + 1] = reply[1]
  end
end
return found
