#!lua
-- uses: clock, ready, start, schedule, overlap
-- Start what a schedule has buffered first, when the runs before it are over.
-- KEYS  the key prefix
-- ARGV  store id, schedule id
-- Reply {'STARTED'}; {'WAITS', ids of runs to be asked to end ...}; {'NOTHING'} where nothing is
--       buffered, or it is paused or deleted; {'STORE'}
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end
local s = read_schedule(ARGV[2])
if not s or s.paused or #s.buffer == 0 then
  return { 'NOTHING' }
end
local at = now()
s.running = still_running(s)
local word = 'WAITS'
if #s.running == 0 then
  local id, occurrence = string.match(s.buffer[1], '^(%S+) (%d+)')
  begin(s, id, occurrence)
  table.remove(s.buffer, 1)
  word = 'STARTED'
end
if #s.buffer > 0 then
  listen(s)
end
write_schedule(s, at)
return { word, unpack(to_cancel(s)) }
