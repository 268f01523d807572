#!lua flags=allow-oom
-- uses: clock, schedule
-- Let nothing planned or buffered start, until the schedule is resumed. Paused again, it has the
-- later note.
-- KEYS  the key prefix
-- ARGV  schedule id, note
-- Reply 'OK', 'NONE'
local p = KEYS[1]
local s = read_schedule(ARGV[1])
if not s then
  return 'NONE'
end
s.paused = true
redis.call('HSET', s.key, 'paused', '1', 'note', ARGV[2])
index_schedule(s, now())
return 'OK'
