#!lua flags=allow-oom
-- Forget a schedule and what it has buffered; its runs stay.
-- KEYS  the key prefix
-- ARGV  schedule id
-- Reply 'OK', also where there is none
local p = KEYS[1]
redis.call('UNLINK', p .. 'schedule:' .. ARGV[1])
redis.pcall('ZREM', p .. 'schedules', ARGV[1])
return 'OK'
