#!lua
-- uses: clock, ready, checkpoint
-- Start a run that begins with entries of another one's journal.
-- KEYS  the key prefix
-- ARGV  store id, id of the new run, id of the other one, what it is said to come from,
--       how many entries keep their order, address#n of each, then address#n of each that is given
--       in no order
-- Reply {'OK', run id}, also where it was forked before; {'NONE'} where the other is not there;
--       {'CHANGED'} where it has no such entry any more; {'STORE'}
-- From  no status -> queued
local p = KEYS[1]
if redis.call('HGET', p .. 'meta', 'store') ~= ARGV[1] then
  return { 'STORE' }
end
local id, other = ARGV[2], ARGV[3]
local run, source = p .. 'run:' .. id, p .. 'run:' .. other
if redis.call('HGET', run, 'status') then
  return { 'OK', id }
end
local f = redis.call('HMGET', source, 'status', 'workflow', 'version', 'pool', 'input',
  'generation', 'seed')
if not f[1] or f[1] == 'deleted' then
  return { 'NONE' }
end
redis.call('HLEN', run .. ':journal')
local entries = {}
for i = 6, #ARGV do
  local entry = redis.call('HGET', source .. ':journal', ARGV[i])
  if not entry then
    return { 'CHANGED' }
  end
  entries[#entries + 1] = i < 6 + ARGV[5] and entry or loosened(entry)
end
-- Its epoch is not 0: a run that was never claimed would have no journal, and nothing to clean up.
local entry = add_entry(stream_of({ f[2], f[3], f[4] }), id, '1')
local at = string.match(entry, '^%d+')
redis.call('HSET', run, 'workflow', f[2], 'version', f[3], 'pool', f[4], 'input', f[5],
  'status', 'queued', 'created', at, 'since', at, 'epoch', '1', 'entry', entry,
  'generation', f[6] or '0', 'seed', f[7] or other, 'forked_from', ARGV[4])
for i, value in ipairs(entries) do
  redis.call('HSET', run .. ':journal', ARGV[5 + i], value)
end
redis.pcall('ZADD', p .. 'index:active/' .. f[2], at, id)
return { 'OK', id }
