#!lua flags=allow-oom
-- uses: clock, fence, waits, ready, index, enqueue, stir, start, child, counts
-- Start some of the children of a map, and say when its parent wants to hear of their ends.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, rest of the open entry, '1' where none may fail, how many must
--       have ended before the parent is told ('0' for what it has said before), what becomes of
--       them when it ends, workflow, version, pool, more, then index, id and input of each
-- Reply flags; 'FENCED'; 'ABANDONED'; 'DIVERGED'
-- From  running; the children: no status -> queued
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'token', 'cancel', 'news', 'kin', 'maps', 'owner', 'generation')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
-- A later generation of the run has the same keys.
local name = ARGV[3] .. (f[7] and f[7] ~= '0' and '~' .. f[7] or '')
local journal, map = run .. ':journal', run .. ':map:' .. name
local old = redis.call('HGET', journal, ARGV[3])
local kind, by = entry_head(old or '')
if kind and kind ~= 'o' then
  return (kind == 'a' and by == ARGV[2]) and 'ABANDONED' or 'DIVERGED'
end
redis.call('HLEN', run .. ':children')
check_counts({ f[3] })
local m = redis.call('HMGET', map, 'started', 'ended', 'wake_at', 'told')
local started, ended = tonumber(m[1]) or 0, tonumber(m[2]) or 0
for i = 12, #ARGV, 3 do
  child(id, run, f[7], ARGV[i + 1], name .. '/' .. ARGV[i], ARGV[7], ARGV[8], ARGV[9],
    ARGV[10], ARGV[i + 2], '', '', ARGV[11])
  started = math.max(started, ARGV[i] + 1)
end
if not old then
  local at = ms(now())
  redis.call('HSET', journal, ARGV[3], 'o ' .. ARGV[2] .. ' ' .. at .. ' 0 ' .. ARGV[4])
end
if not m[1] then
  redis.call('HSET', map, 'strict', ARGV[5])
  redis.call('HSET', run, 'maps', (f[5] or '') .. name .. '\n')
end
-- What is wanted only grows, so a late copy of what was said before says nothing.
local wanted, told = tonumber(ARGV[6]), tonumber(m[4]) or 0
local is_time = wanted > told and ended >= wanted
redis.call('HSET', map, 'started', started, 'told', is_time and wanted or told,
  'wake_at', math.max(wanted, tonumber(m[3]) or 0))
adopt(run, f[4])
local news = f[3]
if is_time then
  stir(id, run, 'running', f[6], '') -- as many have ended meanwhile
  news = redis.call('HINCRBY', run, 'news', 1)
end
return flags(f[2], news)
