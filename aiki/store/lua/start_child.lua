#!lua flags=allow-oom
-- uses: clock, fence, close, ready, start, child
-- Start a run as a child of another one, and record that.
-- KEYS  the key prefix
-- ARGV  run id, token, address#n, entry (of kind r), the child's id, what becomes of it when its
--       parent ends (cancel, abandon or wait), its workflow, version, pool, input, more
-- Reply flags; 'FENCED'; 'ABANDONED'; 'DIVERGED'
-- From  running; the child: no status -> queued, scheduled
local p = KEYS[1]
local id = ARGV[1]
local run = p .. 'run:' .. id
local f = redis.call('HMGET', run, 'token', 'cancel', 'news', 'kin', 'generation')
if f[1] ~= ARGV[2] then
  return 'FENCED'
end
local old = redis.call('HGET', run .. ':journal', ARGV[3])
if old then
  local kind, by = entry_head(old)
  if by ~= ARGV[2] then
    return 'DIVERGED'
  elseif kind == 'a' then
    return 'ABANDONED'
  end
end
redis.call('HLEN', run .. ':children')
child(id, run, f[5], ARGV[5], '', ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], '', '',
  ARGV[11])
adopt(run, f[4])
return close(run, ARGV[3], ARGV[4], ARGV[2]) or flags(f[2], f[3])
