#!lua
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail
-- Ask a run: put a query or an update into its mailbox, once per message id. An update that was
-- answered gives its answer again.
-- KEYS  the key prefix
-- ARGV  run id, message id (of an update, address#n of the entry that its answer is recorded in),
--       ms for which that id is remembered ('' for an update), the message (topic, a line break,
--       payload), the most unread messages, their most bytes
-- Reply {'OK'}, also where it came before; {'DONE', entry}; {'NONE'}; {'OVER', status};
--       {'HELD', status, reason} where nobody will answer; {'FULL', unread messages, their bytes}
-- From  any that is not over, nor stalled or, for a query, paused; one that waits -> queued
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'status', 'owner', 'unread', 'reason', 'ends')
if not f[1] or f[1] == 'deleted' then
  return { 'NONE' }
end
local is_update = ARGV[3] == ''
if is_update then
  local answer = redis.call('HGET', run .. ':journal', ARGV[2])
  if not answer or not string.find(answer, '^[rf]') then
    answer = redis.call('HGET', run .. ':answers', ARGV[2])
  end
  if answer then
    return { 'DONE', answer }
  end
end
if f[1] == 'completed' or f[1] == 'failed' or f[1] == 'cancelled' then
  return { 'OVER', f[1] }
end
if redis.call('ZSCORE', run .. ':seen', ARGV[2]) then
  return { 'OK' }
end
if f[1] == 'stalled' or (f[1] == 'paused' and not is_update) then
  return { 'HELD', f[1], f[4] or '' }
end
local unread, size = redis.call('HLEN', run .. ':mailbox') - (f[5] or 0), tonumber(f[3]) or 0
if unread >= tonumber(ARGV[5]) or size + #ARGV[4] > tonumber(ARGV[6]) then
  return { 'FULL', unread, size }
end
local at = now()
put_mail(id, run, f, ARGV[4], ms(at), 'unread')
if is_update then
  redis.call('ZADD', run .. ':seen', '+inf', ARGV[2])
else
  redis.call('ZREMRANGEBYSCORE', run .. ':seen', '-inf', ms(at))
  redis.call('ZADD', run .. ':seen', ms(at + ARGV[3]), ARGV[2])
end
return { 'OK' }
