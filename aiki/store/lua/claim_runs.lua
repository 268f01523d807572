#!lua flags=allow-oom
-- uses: clock, ready
-- Take runs that entries of a ready stream offer. An entry is a hint; the record decides.
-- KEYS  the key prefix
-- ARGV  stream (without prefix), incarnation, '1' where the claimer serves the quarantine,
--       then entry id, run id, the entry's epoch and token of each run
-- Reply for each run:
--       {'RUN', epoch, now, record, journal, mailbox} to the owner, each time it asks with its
--       token;
--       {'STALE'}: not wanted at that epoch any more, the entry is gone;
--       {'DEAD'}: the claimer has no lease, the entry is added anew;
--       {'ALONE'}: the run is quarantined, the entry is added to that stream;
--       {'REFUSED', why}: its keys are damaged, nothing was changed
-- From  queued -> running
local p = KEYS[1]
local stream, incarnation, in_quarantine = ARGV[1], ARGV[2], ARGV[3] == '1'
local lease = redis.call('ZSCORE', p .. 'workers', incarnation)
local dead = not lease or lease == '0'
local time = ms(now())
local done, taken, elsewhere, owned, seen = {}, {}, {}, {}, {}

local function look(entry, id, wanted, secret)
  local run = p .. 'run:' .. id
  local r = redis.pcall('HMGET', run, 'status', 'epoch', 'token', 'quarantine', 'created',
    'input', 'cancel', 'cancel_at', 'news', 'wakes', 'generation', 'attempt', 'begun', 'seed',
    'streams')
  if r.err then
    return { 'REFUSED', r.err }
  end
  local epoch = r[2] or ''
  local mine = r[1] == 'running' and r[3] == epoch .. ':' .. secret
  if not mine and (r[1] ~= 'queued' or epoch ~= wanted or seen[id]) then
    done[#done + 1] = entry
    return { 'STALE' }
  end
  if not tonumber(epoch) then
    return { 'REFUSED', 'its epoch is ' .. epoch }
  end
  if not mine and (dead or (r[4] == '1' and not in_quarantine)) then
    local q = redis.call('HMGET', run, 'workflow', 'version', 'pool', 'epoch', 'quarantine')
    if not (q[1] and q[2] and q[3]) then
      return { 'REFUSED', 'its workflow, version or pool is missing' }
    end
    local to = stream_of(q)
    local length = redis.pcall('XLEN', p .. to)
    if type(length) == 'table' then
      return { 'REFUSED', length.err }
    end
    elsewhere[#elsewhere + 1] = { entry, id, epoch, to }
    return { dead and 'DEAD' or 'ALONE' }
  end
  -- A run that was never owned has no journal.
  local journal = epoch == '0' and {} or redis.pcall('HGETALL', run .. ':journal')
  if journal.err then
    return { 'REFUSED', journal.err }
  end
  local mail = r[9] and redis.pcall('HGETALL', run .. ':mailbox') or {}
  if mail.err then
    return { 'REFUSED', mail.err }
  end
  if not mine then
    epoch = ms(epoch + 1)
    done[#done + 1] = entry
    taken[#taken + 1] = { run, epoch, epoch .. ':' .. secret }
    owned[#owned + 1] = id
    seen[id] = true
  end
  return { 'RUN', epoch, time, { unpack(r, 5, 15) }, journal, mail }
end

local reply = {}
for i = 4, #ARGV, 4 do
  reply[#reply + 1] = look(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
if #done > 0 then
  redis.call('XACK', p .. stream, 'workers', unpack(done))
  redis.call('XDEL', p .. stream, unpack(done))
end
for _, each in ipairs(taken) do
  local run, epoch, token = unpack(each)
  redis.call('HSET', run, 'status', 'running', 'since', time, 'epoch', epoch,
    'owner', incarnation, 'token', token)
end
if #owned > 0 then
  redis.pcall('SADD', p .. 'worker:' .. incarnation .. ':runs', unpack(owned))
end
for _, each in ipairs(elsewhere) do
  local entry, id, epoch, to = unpack(each)
  if redis.call('XACK', p .. stream, 'workers', entry) == 1 then
    redis.call('XDEL', p .. stream, entry)
    redis.call('HSET', p .. 'run:' .. id, 'entry', add_entry(to, id, epoch))
  end
end
return reply
