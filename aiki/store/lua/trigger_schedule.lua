#!lua
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail, final, family, conclude, finish, start, terminate, schedule, overlap
-- Start an occurrence that is not the planned one, by hand or to fill in for one that was missed.
-- KEYS  the key prefix
-- ARGV  store id, schedule id, overlap policy ('' for its own), run id, occurrence
-- Reply {'STARTED' or 'BUFFERED' or 'SKIPPED' or 'DROPPED', ids of runs to be asked to end ...},
--       'STARTED' also where there is that run already; {'NONE'} without such a schedule;
--       {'STORE'}
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end
local s = read_schedule(ARGV[2])
if not s then
  return { 'NONE' }
end
local at = now()
local word = admit(s, ARGV[3] ~= '' and ARGV[3] or s.overlap, ARGV[4], ARGV[5], at)
write_schedule(s, at)
return { word, unpack(to_cancel(s)) }
