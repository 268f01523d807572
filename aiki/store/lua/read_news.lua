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
local seen, count, mail = tonumber(ARGV[3]), tonumber(f[2]) or 0, {}
local function add(number, message)
  if message then
    mail[#mail + 1] = number
    mail[#mail + 1] = message
  end
end
if count - seen <= 100 then
  -- Not the whole mailbox for each message that comes to one which is full.
  local numbers = {}
  for number = seen + 1, count do
    numbers[#numbers + 1] = string.format('%.0f', number)
  end
  local found = #numbers > 0 and redis.call('HMGET', run .. ':mailbox', unpack(numbers))
  for i, number in ipairs(numbers) do
    add(number, found[i])
  end
else
  local flat = redis.call('HGETALL', run .. ':mailbox')
  for i = 1, #flat, 2 do
    if tonumber(flat[i]) > seen then
      add(flat[i], flat[i + 1])
    end
  end
end
return { f[2] or '0', f[3] or '0', f[4], f[5], mail, f[6] }
