#!lua flags=allow-oom
-- uses: clock, ready, index, enqueue, untold
-- Begin a run anew with another input: a fresh journal in the next generation of the same run. What
-- it was sent and has not taken stays, but for the ends of children, which only this generation
-- could ask for; and so does a cancel that its handler has not seen. Its
-- streams go on; of their chunks, the new handler has told none. Answers to its updates stay for a
-- time: who is asking may not have heard them.
-- KEYS  the key prefix
-- ARGV  run id, token, incarnation, input, ms for which answers are kept
-- Reply 'OK'; 'FENCED'
-- From  running -> queued, or paused where that is asked for
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'token', 'generation', 'maps', 'streams', 'ends')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
-- A script is not rolled back, so what could fail comes first.
local answers = redis.call('HKEYS', run .. ':answers')
local entries = redis.call('HKEYS', run .. ':journal')
local mail = f[5] and f[5] ~= '0' and redis.call('HGETALL', run .. ':mailbox') or {}
redis.call('ZCARD', run .. ':seen')
local at = now()
local r = queue_fields(run)
r[4] = ms(r[4] + 1)
enqueue(id, run, r, 'running', ms(at), 'input', ARGV[4],
  'generation', ms((tonumber(f[2]) or 0) + 1), 'ends', '0')
untold(run, f[4])
redis.call('HDEL', run, 'attempt', 'begun', 'progress', 'waits', 'wake', 'reason', 'maps')
for _, key in ipairs(answers) do
  if tonumber(redis.call('ZSCORE', run .. ':seen', key) or 0) <= at then
    redis.call('HDEL', run .. ':answers', key)
    redis.call('ZREM', run .. ':seen', key)
  end
end
for _, key in ipairs(entries) do
  if string.find(key, '^answer/') then
    redis.call('HSET', run .. ':answers', key, redis.call('HGET', run .. ':journal', key))
    redis.call('ZADD', run .. ':seen', ms(at + ARGV[5]), key)
  end
end
for i = 1, #mail, 2 do
  local child = string.match(mail[i + 1], '^end/([^\n]+)\n')
  if child then
    redis.call('HDEL', run .. ':mailbox', mail[i])
    redis.pcall('HDEL', p .. 'run:' .. child, 'held')
  end
end
redis.call('UNLINK', run .. ':journal')
for map in string.gmatch(f[3] or '', '[^\n]+') do
  redis.call('UNLINK', run .. ':map:' .. map)
end
redis.pcall('SREM', p .. 'worker:' .. ARGV[3] .. ':runs', id)
return 'OK'
