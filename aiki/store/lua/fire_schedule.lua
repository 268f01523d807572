#!lua
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail, final, family, conclude, finish, start, terminate, schedule, overlap
-- Let the planned time of a schedule pass: start its occurrence as the overlap policy says, or
-- count planned times as missed. A compare-and-set on the planned time: of all who try, one does.
-- KEYS  the key prefix
-- ARGV  store id, schedule id, digest and planned time that the sender decided by, the next
--       planned time, when that is due, planned times that are missed,
--       run id of the occurrence ('' where it is missed)
-- Reply {'STARTED' or 'BUFFERED' or 'SKIPPED' or 'DROPPED' or 'MISSED', ids of runs to be asked
--       to end ...}; {'STALE'} where another was first, or it was changed, paused or deleted;
--       {'EARLY'} where it is not due; {'STORE'}
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end
local s = read_schedule(ARGV[2])
if not s or s.paused or s.digest ~= ARGV[3] or s.planned ~= ARGV[4] then
  return { 'STALE' }
end
local at = now()
if tonumber(s.due) > at then
  return { 'EARLY' }
end
local word = 'MISSED'
if ARGV[8] ~= '' then
  word = admit(s, s.overlap, ARGV[8], s.planned, at)
end
s.planned, s.due = ARGV[5], ARGV[6]
s.missed = s.missed + ARGV[7]
s.skipped = s.skipped + (word == 'SKIPPED' and 1 or 0)
s.dropped = s.dropped + (word == 'DROPPED' and 1 or 0)
write_schedule(s, at)
return { word, unpack(to_cancel(s)) }
