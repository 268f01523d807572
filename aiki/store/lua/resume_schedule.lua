#!lua flags=allow-oom
-- uses: clock, schedule
-- Let a paused schedule go on with a planned time to come; those that passed meanwhile are not
-- made up for.
-- KEYS  the key prefix
-- ARGV  schedule id, digest that the sender decided by, planned time, when that is due
-- Reply 'OK', also where it is not paused; 'CHANGED' where it has another definition now; 'NONE'
local p = KEYS[1]
local s = read_schedule(ARGV[1])
if not s then
  return 'NONE'
end
if s.digest ~= ARGV[2] then
  return 'CHANGED'
end
if s.paused then
  local at = now()
  s.paused, s.due, s.running = false, ARGV[4], {} -- so that a buffer is looked at at once
  redis.call('HSET', s.key, 'paused', '0', 'note', '', 'planned', ARGV[3], 'due', s.due)
  index_schedule(s, at)
  redis.pcall('PUBLISH', p .. 'schedules', #s.buffer > 0 and '0' or ms(math.max(0, s.due - at)))
end
return 'OK'
