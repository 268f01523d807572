#!lua flags=allow-oom
-- Tell an owner what has happened to its run from outside.
-- KEYS  the key prefix
-- ARGV  run id, token, the news that it has seen
-- Reply {news, wakes, cancel, cancel_at, mailbox (number, message, ...) without what it has seen,
--       pause};
--       'FENCED'
-- From  running
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'token', 'news', 'wakes', 'cancel', 'cancel_at', 'pause')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local seen, mail = tonumber(ARGV[3]), {}
local flat = redis.call('HGETALL', run .. ':mailbox')
for i = 1, #flat, 2 do
  if tonumber(flat[i]) > seen then
    mail[#mail + 1] = flat[i]
    mail[#mail + 1] = flat[i + 1]
  end
end
return { f[2] or '0', f[3] or '0', f[4], f[5], mail, f[6] }
