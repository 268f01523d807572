#!lua flags=allow-oom
-- uses: clock, waits, ready, again, index, enqueue, stir, counts, mail, final, family, conclude, finish
-- Give back what a worker that is gone still holds, in batches. Marks the lease dead first and
-- removes it with the last batch, so that whoever comes next can finish the job. What the worker
-- said of itself is kept for an hour more, so that a register sent again late finds it dead.
-- KEYS  the key prefix
-- ARGV  incarnation, '1' if only an expired lease counts, cause in words, '1' to count the
--       death against each run, ms within which a run that was recovered before is counted all
--       the same ('' for none), deaths before quarantine, deaths before stalling, batch size
-- Reply {'DONE' or 'MORE' or 'ALIVE', runs given back, runs stalled}
-- From  running -> queued, or paused where that is asked for; stalled where it ended too many workers, or cancelled where it was
--       wanted before
local p = KEYS[1]
local incarnation = ARGV[1]
local worker = p .. 'worker:' .. incarnation
local at = now()
local lease = redis.call('ZSCORE', p .. 'workers', incarnation)
local batch = tonumber(ARGV[8])
local left = 0

local function give_back_entries(stream)
  local pending = redis.call('XPENDING', p .. stream, 'workers', '-', '+', batch, incarnation)
  for _, item in ipairs(pending) do
    again(stream, item[1])
  end
  if #pending == batch then
    left = left + 1
  else
    redis.call('XGROUP', 'DELCONSUMER', p .. stream, 'workers', incarnation)
  end
end

if not lease then
  -- It may have read once more after it was given back, and before it knew.
  for _, stream in ipairs(redis.call('SMEMBERS', p .. 'streams')) do
    pcall(give_back_entries, stream)
  end
  return { left > 0 and 'MORE' or 'DONE', {}, {} }
end
if ARGV[2] == '1' and lease ~= '0' then
  local grace = redis.call('HGET', p .. 'pulse', 'grace')
  if tonumber(lease) >= at or (grace and at < tonumber(grace)) then
    return { 'ALIVE', {}, {} }
  end
end
local owned = redis.call('SRANDMEMBER', worker .. ':runs', batch)
local streams = redis.call('SMEMBERS', worker .. ':streams')
redis.call('ZADD', p .. 'workers', '0', incarnation)
local queued, stalled = {}, {}

local function give_back(id)
  local run = p .. 'run:' .. id
  local r = queue_fields(run)
  local f = redis.call('HMGET', run, 'status', 'owner', 'deaths', 'recovered', 'death_log',
    'progress', 'cancel', 'cancel_at', 'watchers', 'kin')
  if f[1] ~= 'running' or f[2] ~= incarnation then
    return
  end
  -- A step recorded since the last death is progress: then it was not this run's doing.
  local progress = tostring(redis.call('HLEN', run .. ':journal'))
  local deaths = f[6] == progress and tonumber(f[3]) or 0
  local suspect = ARGV[5] ~= '' and f[4] and tonumber(f[4]) >= at - ARGV[5]
  local log = f[5] or ''
  if ARGV[4] == '1' or suspect then
    deaths = deaths + 1
    log = string.sub(log .. ms(at) .. ' ' .. ARGV[3] .. '\n', -2048)
  end
  r[4] = ms(r[4] + 1)
  if deaths < tonumber(ARGV[7]) then
    if deaths >= tonumber(ARGV[6]) then
      r[5] = '1'
    end
    enqueue(id, run, r, 'running', ms(at), 'deaths', deaths, 'progress', progress,
      'recovered', ms(at), 'death_log', log, 'quarantine', r[5] or '0')
    queued[#queued + 1] = id
    return
  end
  redis.call('HSET', run, 'epoch', r[4], 'deaths', deaths, 'progress', progress,
    'death_log', log)
  if f[7] and not f[8] then
    finish(id, run, r[1], f[9], 'running', 'cancelled', 'failure', f[7], '', ms(at),
      f[10])
  else
    redis.call('HSET', run, 'status', 'stalled', 'since', ms(at), 'owner', '', 'token', '',
      'reason', 'It ended ' .. deaths .. ' worker processes without progress:\n' .. log)
    move(id, r[1], 'running', 'stalled', ms(at))
    stalled[#stalled + 1] = id
  end
  redis.pcall('ZREM', p .. 'quarantine', id)
end

for _, id in ipairs(owned) do
  pcall(give_back, id) -- a damaged run holds nobody up; the sweep finds it without an owner
  redis.call('SREM', worker .. ':runs', id)
end
left = redis.call('SCARD', worker .. ':runs')

for _, stream in ipairs(streams) do
  pcall(give_back_entries, stream)
end
if left > 0 then
  return { 'MORE', queued, stalled }
end
redis.call('ZREM', p .. 'workers', incarnation)
redis.call('DEL', worker .. ':runs', worker .. ':streams', worker .. ':notices')
redis.call('EXPIRE', worker, 3600)
return { 'DONE', queued, stalled }
