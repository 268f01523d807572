#!lua flags=allow-oom
-- uses: clock, waits, ready, served, index, enqueue, stir, counts, mail, final, family, conclude, finish, cancel
-- Let the children of runs that are over end too, as each was started to.
-- KEYS  the key prefix
-- ARGV  how many at most
-- Reply runs that are over and have children left
-- From  a child: as request_cancel
local p = KEYS[1]
local at = ms(now())
local parent = redis.call('SRANDMEMBER', p .. 'cascades')
if not parent then
  return 0
end
local children = p .. 'run:' .. parent .. ':children'
local function look_after()
  -- At random, since what begins a scan anew after deletions finds nothing for long
  local page = redis.call('HRANDFIELD', children, ARGV[1], 'WITHVALUES')
  for i = 1, #page, 2 do
    if page[i + 1] == 'cancel' then
      pcall(cancel, page[i], 'its parent, run ' .. parent .. ', is over', at)
    end
    redis.call('HDEL', children, page[i])
  end
end
-- Damaged, or done: nothing is left that could be looked after.
if not pcall(look_after) or redis.call('EXISTS', children) == 0 then
  redis.call('SREM', p .. 'cascades', parent)
end
return redis.call('SCARD', p .. 'cascades')
