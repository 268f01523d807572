#!lua flags=allow-oom
-- uses: clock
-- Give the schedules that are to be looked at now, and keep others from looking for a moment.
-- Whoever takes one and dies has only delayed it: each is looked at again when that is over.
-- KEYS  the key prefix
-- ARGV  how many at most, ms for which they are kept from others
-- Reply {now, ms until the next or '', {id, digest, planned, due, timing, '1' if it has a buffer},
--       ...}
local p = KEYS[1]
local at = now()
local found = redis.call('ZRANGE', p .. 'schedules', '-inf', ms(at), 'BYSCORE', 'LIMIT', '0', ARGV[1])
local reply = { ms(at), '' }
for _, id in ipairs(found) do
  local f = redis.pcall('HMGET', p .. 'schedule:' .. id, 'digest', 'planned', 'due', 'timing',
    'buffer')
  if f.err then
    redis.call('ZADD', p .. 'schedules', ms(at + 10000), id) -- a damaged one holds nobody up
  elseif not f[1] then
    redis.call('ZREM', p .. 'schedules', id)
  else
    redis.call('ZADD', p .. 'schedules', ms(at + ARGV[2]), id)
    reply[#reply + 1] = { id, f[1], f[2] or '', f[3] or '', f[4] or '',
      f[5] and f[5] ~= '' and '1' or '0' }
  end
end
local nearest = redis.call('ZRANGE', p .. 'schedules', 0, 0, 'WITHSCORES')
if nearest[2] and nearest[2] ~= 'inf' then
  reply[2] = ms(math.max(0, nearest[2] - at))
end
return reply
