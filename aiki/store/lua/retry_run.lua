#!lua flags=allow-oom
-- uses: clock, ready, index, enqueue, checkpoint, counts, untold, final, untell
-- Let a failed run go on from its last checkpoint. Who asks has read its journal, and says what of
-- it the next attempt does without. A deadline and a cancel that came too late hold no more.
-- KEYS  the key prefix
-- ARGV  run id, the epoch at which it was read, how many entries to drop, address#n of each, then
--       address#n of each entry that stays, in no order
-- Reply {'OK', status it has now}, also where it was retried since that epoch; {'NONE'};
--       {'REFUSED', status}; {'CHANGED'} where it has failed anew; {'TAKEN', parent} where a map
--       of a parent that is at work has its failure among its results
-- From  failed -> queued
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'status', 'epoch', 'retried', 'news', 'ends', 'streams',
  'parent', 'slot', 'policy', 'parent_generation')
if not f[1] or f[1] == 'deleted' then
  return { 'NONE' }
elseif f[3] == ARGV[2] then
  return { 'OK', f[1] }
elseif f[1] ~= 'failed' then
  return { 'REFUSED', f[1] }
elseif f[2] ~= ARGV[2] then
  return { 'CHANGED' }
elseif f[7] and is_in_results(f[7], f[8], f[10]) then
  return { 'TAKEN', f[7] }
end
check_counts({ f[4], f[5] })
redis.call('HLEN', run .. ':journal')
redis.call('HLEN', run .. ':mailbox')
local r = queue_fields(run)
r[6] = ''
enqueue(id, run, r, 'failed', ms(now()), 'retried', ARGV[2])
redis.call('HDEL', run, 'failure', 'cancel', 'cancel_at', 'pause', 'attempt', 'begun', 'finish_by',
  'deaths', 'progress')
if f[7] then
  pcall(untell, id, run, f[7], f[8], f[9]) -- a damaged parent keeps nobody from this
end
untold(run, f[6])
checkpoint(run, 4, tonumber(ARGV[3]))
redis.pcall('ZREM', p .. 'timers', id .. '!finish')
redis.pcall('SREM', p .. 'cascades', id) -- or new children would be asked to end
return { 'OK', 'queued' }
