-- put_mail(id, run, f, message, at): put a message into the mailbox of a run that is not over, and
-- have the run look. f is its {status, owner}. Gives its status.
local function put_mail(id, run, f, message, at)
  local status = stir(id, run, f[1], f[2], at) -- it is the only part that may fail
  local number = redis.call('HINCRBY', run, 'news', 1)
  redis.call('HSET', run .. ':mailbox', number, message)
  redis.call('HINCRBY', run, 'unread', #message)
  return status
end
