#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail, final, family, conclude, finish
-- Hold a run that must not go on as it is, until somebody repairs it. Where a cancel is wanted
-- that its handler has not seen, nobody will: the run ends here.
-- KEYS  the key prefix
-- ARGV  run id, token, incarnation, reason
-- Reply 'OK'; 'FENCED'
-- From  running -> stalled, cancelled
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'token', 'workflow', 'quarantine', 'cancel', 'cancel_at',
  'watchers', 'kin')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local at = ms(now())
if f[4] and not f[5] then
  finish(id, run, f[2], f[6], 'running', 'cancelled', 'failure', f[4], '', at,
    f[7])
else
  redis.call('HSET', run, 'status', 'stalled', 'since', at, 'owner', '', 'token', '',
    'reason', ARGV[4])
  move(id, f[2], 'running', 'stalled', at)
end
redis.pcall('SREM', p .. 'worker:' .. ARGV[3] .. ':runs', id)
if f[3] == '1' then
  redis.pcall('ZREM', p .. 'quarantine', id)
end
return 'OK'
