#!lua flags=allow-oom
-- uses: clock, index, conclude
-- End a run with its handler's outcome; steps still pending are marked abandoned. Why a run is
-- cancelled is taken from its record: its owner was told that it is, not why.
-- KEYS  the key prefix
-- ARGV  run id, token, incarnation, status, payload,
--       then address#n and entry (of kind a) of each pending step
-- Reply 'OK', also to the same token again; 'FENCED'
-- From  running -> completed, failed, cancelled
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'token', 'workflow', 'watchers', 'quarantine', 'cancel',
  'kin')
if f[1] ~= ARGV[2] then
  return f[1] == 'ended:' .. ARGV[2] and 'OK' or 'FENCED'
end
for i = 6, #ARGV, 2 do
  redis.call('HSET', run .. ':journal', ARGV[i], ARGV[i + 1])
end
local field = ARGV[4] == 'completed' and 'result' or 'failure'
local payload = ARGV[4] == 'cancelled' and f[5] or ARGV[5]
local at = ms(now())
conclude(id, run, f[2], f[3], 'running', ARGV[4], field, payload, 'ended:' .. ARGV[2], at)
if f[6] then
  -- uses: waits, ready, enqueue, stir, counts, mail, final, family
  family(id, run, f[6], ARGV[4], at)
end
redis.pcall('SREM', p .. 'worker:' .. ARGV[3] .. ':runs', id)
if f[4] == '1' then
  redis.pcall('ZREM', p .. 'quarantine', id)
end
return 'OK'
