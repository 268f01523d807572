-- put_mail(id, run, f, message, at, counted): put a message into the mailbox of a run that is not
-- over, and have the run look. f is its {status, owner}. The record counts the bytes that are
-- `unread`, or the messages that are `ends` of children: no limit holds for those. Gives its status.
local function put_mail(id, run, f, message, at, counted)
  check_counts(redis.call('HMGET', run, 'news', counted))
  local status = tell(id, run, f[1], f[2], at) -- it is the last part that may fail
  local number = redis.call('HINCRBY', run, 'news', 1)
  redis.call('HSET', run .. ':mailbox', number, message)
  redis.call('HINCRBY', run, counted, counted == 'ends' and 1 or #message)
  return status
end
