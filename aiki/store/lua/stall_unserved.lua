#!lua flags=allow-oom
-- uses: clock, waits, ready, served, index, enqueue, stir, counts, mail, final, family, conclude, finish
-- Hold runs that wait for a worker where nobody has served their version and pool for long. Where
-- a cancel is wanted, the run ends here instead.
-- `unserved` tells of each ready stream that offers runs and has no reader since when that is so,
-- and when it was last seen. A gap between two looks means that nobody kept house, so perhaps
-- everything was switched off: then the time begins anew.
-- KEYS  the key prefix
-- ARGV  ms without a reader, longest ms between two looks, how many runs at most, the first in words
-- Reply ids of the runs held
-- From  queued -> stalled, or cancelled where it was wanted before
local p = KEYS[1]
local at = now()
local patience, left = tonumber(ARGV[1]), tonumber(ARGV[3])
local held = {}

-- Since when nobody reads the stream; nil where somebody does or it offers nothing.
local function unserved_since(stream)
  local known = redis.call('HGET', p .. 'unserved', stream)
  if redis.call('XLEN', p .. stream) == 0 or is_served(stream) then
    if known then
      redis.call('HDEL', p .. 'unserved', stream)
    end
    return nil
  end
  local first, last = string.match(known or '', '^(%d+) (%d+)$')
  if not first or math.abs(at - last) > tonumber(ARGV[2]) then
    first = ms(at)
  end
  redis.call('HSET', p .. 'unserved', stream, first .. ' ' .. ms(at))
  return tonumber(first)
end

local function hold(stream, entry)
  local id = entry[2][2]
  local run = p .. 'run:' .. id
  local f = redis.call('HMGET', run, 'status', 'epoch', 'workflow', 'version', 'pool', 'cancel',
    'cancel_at', 'watchers', 'kin')
  if f[1] == 'queued' and f[2] == entry[2][4] then
    if f[6] and not f[7] then
      finish(id, run, f[3], f[8], 'queued', 'cancelled', 'failure', f[6], '', ms(at), f[9])
    else
      redis.call('HSET', run, 'status', 'stalled', 'since', ms(at), 'reason', 'For ' .. ARGV[4]
        .. ' no worker of pool ' .. f[5] .. ' has served ' .. f[3] .. ' ' .. f[4] .. '.')
      move(id, f[3], 'queued', 'stalled', ms(at))
    end
    redis.pcall('ZREM', p .. 'quarantine', id)
    held[#held + 1] = id
  end
  redis.call('XACK', p .. stream, 'workers', entry[1])
  redis.call('XDEL', p .. stream, entry[1])
end

local function look_at(stream)
  local since = unserved_since(stream)
  if not since or at - since < patience or left <= 0 then
    return
  end
  -- An entry's id begins with the time at which the run was queued.
  local old = redis.call('XRANGE', p .. stream, '-', ms(at - patience), 'COUNT', left)
  for _, entry in ipairs(old) do
    pcall(hold, stream, entry) -- a damaged run holds nobody up
  end
  left = left - #old
end

for _, stream in ipairs(redis.call('SMEMBERS', p .. 'streams')) do
  pcall(look_at, stream)
end
return held
