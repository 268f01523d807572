#!lua
-- uses: clock, schedule
-- Make a schedule, once per id. What was counted and what is buffered stays when it is replaced,
-- and so does a pause.
-- KEYS  the key prefix
-- ARGV  store id, schedule id, digest of the whole definition, '1' to replace another definition,
--       first planned time, when that is due, workflow, version, pool, input, overlap policy,
--       timing (opaque), what few runs have, as shared/start.lua says
-- Reply 'OK', also when sent again; 'CONFLICT' where the id has another definition; 'STORE'
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return 'STORE'
end
local old = read_schedule(ARGV[2])
if old and old.digest == ARGV[3] then
  return 'OK'
end
if old and ARGV[4] ~= '1' then
  return 'CONFLICT'
end
local at = now()
local s = old or { id = ARGV[2], key = p .. 'schedule:' .. ARGV[2], buffer = {}, running = {} }
s.due = ARGV[6]
redis.call('HSET', s.key, 'digest', ARGV[3], 'planned', ARGV[5], 'due', s.due,
  'workflow', ARGV[7], 'version', ARGV[8], 'pool', ARGV[9], 'input', ARGV[10],
  'overlap', ARGV[11], 'timing', ARGV[12], 'more', ARGV[13])
redis.call('HSETNX', s.key, 'created', ms(at))
index_schedule(s, at)
redis.pcall('PUBLISH', p .. 'schedules', ms(math.max(0, s.due - at)))
return 'OK'
