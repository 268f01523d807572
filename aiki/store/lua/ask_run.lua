#!lua
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail
-- Ask a run: put a query or an update into its mailbox, once per message id. An update that was
-- answered gives its answer again.
-- KEYS  the key prefix
-- ARGV  run id, an id of this request, ms for which it is remembered, the message (topic, a line
--       break, payload), the most unread messages, their most bytes, of an update address#n of the
--       entry that its answer is recorded in, else ''
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
local update = ARGV[7]
if update ~= '' then
  local answer = redis.call('HGET', run .. ':journal', update)
  if not answer or not string.find(answer, '^[rf]') then
    answer = redis.call('HGET', run .. ':answers', update)
  end
  if answer then
    return { 'DONE', answer }
  end
end
if f[1] == 'completed' or f[1] == 'failed' or f[1] == 'cancelled' then
  return { 'OVER', f[1] }
end
-- An update that was refused may be asked for again, by another request.
if redis.call('ZSCORE', run .. ':seen', ARGV[2]) or redis.call('ZSCORE', run .. ':seen', update) then
  return { 'OK' }
end
if f[1] == 'stalled' or (f[1] == 'paused' and update == '') then
  return { 'HELD', f[1], f[4] or '' }
end
local unread, size = redis.call('HLEN', run .. ':mailbox') - (f[5] or 0), tonumber(f[3]) or 0
if unread >= tonumber(ARGV[5]) or size + #ARGV[4] > tonumber(ARGV[6]) then
  return { 'FULL', unread, size }
end
local at = now()
put_mail(id, run, f, ARGV[4], ms(at), 'unread')
redis.call('ZREMRANGEBYSCORE', run .. ':seen', '-inf', ms(at))
redis.call('ZADD', run .. ':seen', ms(at + ARGV[3]), ARGV[2])
if update ~= '' then
  redis.call('ZADD', run .. ':seen', '+inf', update)
end
return { 'OK' }
