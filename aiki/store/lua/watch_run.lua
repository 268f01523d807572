#!lua flags=allow-oom
-- Hear of a run's end: at once where it is over, else by one message to an inbox.
-- KEYS  the key prefix
-- ARGV  run id, inbox channel
-- Reply {status, outcome}, {'WAIT'}, {'NONE'}
local p = KEYS[1]
local run = p .. 'run:' .. ARGV[1]
local f = redis.call('HMGET', run, 'status', 'watchers', 'result', 'failure')
if not f[1] or f[1] == 'deleted' then
  return { 'NONE' }
end
if f[1] == 'completed' then
  return { f[1], f[3] }
elseif f[1] == 'failed' or f[1] == 'cancelled' then
  return { f[1], f[4] }
end
local watchers = f[2] or '' -- one to a line
if not string.find(watchers, ARGV[2], 1, true) then
  -- Nobody leaves the list, so it is bounded: who falls out at the front polls, and is put back.
  if #watchers > 8192 then
    watchers = string.match(watchers, '\n(.*)$', 4096)
  end
  redis.call('HSET', run, 'watchers', watchers .. ARGV[2] .. '\n')
end
return { 'WAIT' }
