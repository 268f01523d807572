#!lua flags=allow-oom
-- uses: clock, ready, index, enqueue, checkpoint, counts, untold
-- Let a run whose handler failed wait for its next attempt. What is recorded stays, but for what
-- the owner says. Where a cancel or a pause is wanted it does not wait: the handler is to be told.
-- KEYS  the key prefix
-- ARGV  run id, token, incarnation, number of the next attempt, when the first one began, delay in
--       ms, why in words, how many entries to drop, address#n of each, then address#n of each entry
--       that stays, in no order
-- Reply 'OK'; 'FENCED'
-- From  running -> awaiting_retry; queued where a cancel is wanted, paused where that is asked for
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'token', 'cancel', 'pause', 'news', 'ends', 'streams')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
check_counts({ f[4], f[5] })
redis.call('HLEN', run .. ':journal')
redis.call('HLEN', run .. ':mailbox')
local r = queue_fields(run)
local at = now()
if f[2] or f[3] == '1' then
  enqueue(id, run, r, 'running', ms(at), 'attempt', ARGV[4], 'begun', ARGV[5], 'reason', ARGV[7])
else
  local due = ms(at + ARGV[6])
  redis.call('ZADD', p .. 'timers', due, id)
  redis.call('HSET', run, 'status', 'awaiting_retry', 'since', ms(at), 'owner', '', 'token', '',
    'wake', due, 'waits', '', 'attempt', ARGV[4], 'begun', ARGV[5], 'reason', ARGV[7])
  move(id, r[1], 'running', 'awaiting_retry', ms(at))
  if r[5] == '1' then
    redis.pcall('ZREM', p .. 'quarantine', id)
  end
  if redis.call('ZRANGE', p .. 'timers', 0, 0)[1] == id then
    redis.pcall('PUBLISH', p .. 'timers', ARGV[6])
  end
end
redis.call('HDEL', run, 'progress') -- a new attempt is another state than the one that it died in
untold(run, f[6])
checkpoint(run, 9, tonumber(ARGV[8]))
redis.pcall('SREM', p .. 'worker:' .. ARGV[3] .. ':runs', id)
return 'OK'
