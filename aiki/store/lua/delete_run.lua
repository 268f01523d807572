#!lua flags=allow-oom
-- uses: final, remove
-- Remove a run that is over, at once. That there was one is remembered for a while, so that a start
-- that is sent again late does not start it anew.
-- KEYS  the key prefix
-- ARGV  run id, seconds for which that is remembered
-- Reply {'OK'}, also where it was deleted before; {'NONE'}; {'REFUSED', status} where it is not over;
--       {'AWAITED', run id} where its parent has still to take its end
-- From  completed, failed, cancelled
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'status', 'workflow', 'held', 'parent', 'slot')
local status = f[1]
if not status then
  return { 'NONE' }
elseif status == 'deleted' then
  return { 'OK' }
elseif not FINAL[status] then
  return { 'REFUSED', status }
elseif is_awaited(f[3], f[4], f[5]) then
  return { 'AWAITED', f[4] }
end
remove(id, run)
redis.call('HSET', run, 'status', 'deleted')
redis.call('EXPIRE', run, ARGV[2])
redis.pcall('ZREM', p .. 'index:' .. status .. '/' .. f[2], id)
return { 'OK' }
