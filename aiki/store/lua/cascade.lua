#!lua flags=allow-oom
-- uses: clock, waits, ready, served, index, enqueue, stir, mail, family, finish, cancel
-- Let the children of runs that are over end too, as each was started to.
-- KEYS  the key prefix
-- ARGV  how many at most
-- Reply children looked at
-- From  a child: as request_cancel
local p = KEYS[1]
local at = ms(now())
local parent = redis.call('SRANDMEMBER', p .. 'cascades')
if not parent then
  return 0
end
local children = p .. 'run:' .. parent .. ':children'
local count = 0
local function look_after()
  local page = redis.call('HSCAN', children, '0', 'COUNT', ARGV[1])[2]
  for i = 1, math.min(#page, 2 * ARGV[1]), 2 do
    if page[i + 1] == 'cancel' then
      pcall(cancel, page[i], 'its parent, run ' .. parent .. ', is over', at)
    end
    redis.call('HDEL', children, page[i])
    count = count + 1
  end
end
-- Damaged, or done: nothing is left that could be looked after.
if not pcall(look_after) or redis.call('EXISTS', children) == 0 then
  redis.call('SREM', p .. 'cascades', parent)
end
return count
