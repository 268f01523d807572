#!lua flags=allow-oom
-- uses: clock, final, remove
-- Remove finished runs whose retention is over, each with every key and index entry it has.
-- KEYS  the key prefix
-- ARGV  retention in ms, how many at most, workflows
-- Reply runs removed
-- From  completed, failed, cancelled
local p = KEYS[1]
local AGAIN = 60000 -- ms, after which the parent has been looked at too
local at = now()
local before = ms(at - ARGV[1])
local left = tonumber(ARGV[2])
for i = 3, #ARGV do
  for _, status in ipairs({ 'completed', 'failed', 'cancelled' }) do
    local index = p .. 'index:' .. status .. '/' .. ARGV[i]
    local due = redis.call('ZRANGE', index, '-inf', before, 'BYSCORE', 'LIMIT', '0', left)
    for _, id in ipairs(due) do
      local run = p .. 'run:' .. id
      -- A listing may be wrong; a run that is not over is never removed.
      local f = redis.pcall('HMGET', run, 'status', 'held', 'parent', 'slot')
      -- A child is kept until its parent has taken its end, or is over itself; one of a map, whose
      -- results nobody else has, as long as its parent is, which may be retried or forked.
      if f[1] == status and is_awaited(f[2], f[3], f[4]) then
        redis.call('ZADD', index, ms(at), id)
      elseif f[1] == status and is_mapped(f[3], f[4]) then
        local since = tonumber(redis.call('HGET', p .. 'run:' .. f[3], 'since')) or 0
        redis.call('ZADD', index, ms(math.max(since, before) + AGAIN), id)
      else
        if f[1] == status then
          remove(id, run)
        end
        redis.call('ZREM', index, id)
      end
    end
    left = left - #due
  end
end
return tonumber(ARGV[2]) - left
