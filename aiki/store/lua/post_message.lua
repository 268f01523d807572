#!lua
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail
-- Put a message into a run's mailbox, once per message id.
-- KEYS  the key prefix
-- ARGV  run id, message id, ms for which that id is remembered ('' for as long as the run), the
--       message (topic, a line break, payload), the most unread messages, their most bytes, then,
--       for a promise, address#n of the entry that must hold a secret, and that secret
-- Reply {'OK'}, also where it came before; {'NONE'} where there is no such run or promise;
--       {'OVER', status}; {'FULL', unread messages, their bytes}
-- From  any that is not over; one that waits -> queued
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'status', 'owner', 'unread', 'ends')
if not f[1] or f[1] == 'deleted' then
  return { 'NONE' }
end
if redis.call('ZSCORE', run .. ':seen', ARGV[2]) then
  return { 'OK' }
end
if ARGV[7] then
  local held = redis.call('HGET', run .. ':journal', ARGV[7])
  if not held or string.match(held, '\n(.*)$') ~= ARGV[8] then
    return { 'NONE' }
  end
end
if f[1] == 'completed' or f[1] == 'failed' or f[1] == 'cancelled' then
  return { 'OVER', f[1] }
end
local unread, size = redis.call('HLEN', run .. ':mailbox') - (f[4] or 0), tonumber(f[3]) or 0
if unread >= tonumber(ARGV[5]) or size + #ARGV[4] > tonumber(ARGV[6]) then
  return { 'FULL', unread, size }
end
local at = now()
put_mail(id, run, f, ARGV[4], ms(at), 'unread')
if ARGV[3] == '' then
  redis.call('ZADD', run .. ':seen', '+inf', ARGV[2])
else
  -- Ids that nobody chose are only there for what is sent again at once.
  redis.call('ZREMRANGEBYSCORE', run .. ':seen', '-inf', ms(at))
  redis.call('ZADD', run .. ':seen', ms(at + ARGV[3]), ARGV[2])
end
return { 'OK' }
