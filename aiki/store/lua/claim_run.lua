#!lua flags=allow-oom
-- uses: clock, ready
-- Take a run that a ready entry offers. The entry is a hint; the record decides.
-- KEYS  the key prefix
-- ARGV  stream of the entry (without prefix), entry id, run id, the entry's epoch,
--       incarnation, token, '1' where the claimer serves the quarantine
-- Reply {'RUN', epoch, now, record, journal} to the owner, each time it asks with its token;
--       {'STALE'}: not wanted at that epoch any more, the entry is gone;
--       {'DEAD'}: the claimer has no lease, the entry is added anew;
--       {'ALONE'}: the run is quarantined, the entry is added to that stream
-- From  queued -> running
local p = KEYS[1]
local stream, entry, id, incarnation = p .. ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local run = p .. 'run:' .. id
local r = redis.call('HMGET', run, 'status', 'epoch', 'token', 'quarantine', 'created', 'input',
  'cancel', 'cancel_at')
local epoch = r[2]
local time = now()
local mine = r[1] == 'running' and r[3] == epoch .. ':' .. ARGV[6]
if not mine then
  if r[1] ~= 'queued' or epoch ~= ARGV[4] then
    redis.call('XACK', stream, 'workers', entry)
    redis.call('XDEL', stream, entry)
    return { 'STALE' }
  end
  local lease = redis.call('ZSCORE', p .. 'workers', incarnation)
  local dead = not lease or lease == '0'
  if dead or (r[4] == '1' and ARGV[7] ~= '1') then
    local q = redis.call('HMGET', run, 'workflow', 'version', 'pool', 'epoch', 'quarantine')
    redis.call('XLEN', p .. stream_of(q)) -- fails here if it is no stream
    if redis.call('XACK', stream, 'workers', entry) == 1 then
      redis.call('XDEL', stream, entry)
      redis.call('HSET', run, 'entry', add_entry(stream_of(q), id, epoch))
    end
    return { dead and 'DEAD' or 'ALONE' }
  end
end
-- A run that was never owned has no journal.
local journal = epoch == '0' and {} or redis.call('HGETALL', run .. ':journal')
if not mine then
  epoch = ms(epoch + 1)
  redis.call('XACK', stream, 'workers', entry)
  redis.call('XDEL', stream, entry)
  redis.call('HSET', run, 'status', 'running', 'since', ms(time), 'epoch', epoch,
    'owner', incarnation, 'token', epoch .. ':' .. ARGV[6])
  redis.pcall('SADD', p .. 'worker:' .. incarnation .. ':runs', id)
end
return { 'RUN', epoch, ms(time), { r[5], r[6], r[7], r[8] }, journal }
