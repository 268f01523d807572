#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail, final, family, check
-- Look slowly through the store for what should not be, and mend it from the run records:
-- a run that nothing will ever move, an index or timer entry that its record does not bear out,
-- an index that is none; and likewise a schedule that nobody would look at.
-- The place reached is kept in `sweep`, so that all housekeepers make one walk together.
-- KEYS  the key prefix
-- ARGV  ms between two steps, keys per step
-- Reply what was mended: run id or key, words, run id or key, words, ...; empty where it is not
--       time yet
-- From  queued, running, any that waits -> queued
local p = KEYS[1]
local at = now()
local state = redis.call('HMGET', p .. 'sweep', 'next', 'cursor')
if state[1] and tonumber(state[1]) > at then
  return {}
end
local glob = string.gsub(p, '[%*%?%[%]%^\\]', '\\%0') .. '*'
local page = redis.call('SCAN', state[2] or '0', 'MATCH', glob, 'COUNT', ARGV[2])
redis.call('HSET', p .. 'sweep', 'next', ms(at + ARGV[1]), 'cursor', page[1])
local mended = {}
found = function(what, words, mend)
  mend()
  mended[#mended + 1] = what
  mended[#mended + 1] = words
end

local function check(key)
  local name = string.sub(key, #p + 1)
  local id = string.match(name, '^run:([^:]+)$')
  local schedule = string.match(name, '^schedule:(.+)$')
  if not check_type(name) then
    return
  elseif id then
    check_run(id)
  elseif schedule then
    check_schedule(schedule)
  elseif string.find(name, '^worker:') then
    check_worker(name)
  elseif string.match(name, '^index:') then
    -- Strays are never taken off by a move, so they gather among the oldest of a listing.
    check_members(name, redis.call('ZRANGE', key, 0, 20))
  elseif kind_of(name) == 'zset' then
    check_members(name, redis.call('ZRANDMEMBER', key, 20)) -- any may be stray
  end
end

for _, key in ipairs(page[2]) do
  pcall(check, key) -- a damaged key must not keep the others from being looked at
end
return mended
