#!lua flags=allow-oom
-- uses: clock
-- Remove finished runs whose retention is over, each with every key and index entry it has.
-- KEYS  the key prefix
-- ARGV  retention in ms, how many at most, workflows
-- Reply runs removed
-- From  completed, failed, cancelled
local p = KEYS[1]
local at = now()
local before = ms(at - ARGV[1])
local FINAL = { completed = true, failed = true, cancelled = true }
local function remove(id, run, index, f, status)
  if f[1] == status then
    if f[2] then
      redis.call('DEL', p .. f[2])
    end
    for tag in string.gmatch(f[3] or '', '[^\n]+') do
      redis.pcall('ZREM', p .. 'tag:' .. tag, id)
    end
    if f[4] or f[5] then
      redis.pcall('ZREM', p .. 'timers', id .. '!start', id .. '!finish')
    end
    for map in string.gmatch(f[8] or '', '[^\n]+') do
      redis.call('UNLINK', run .. ':map:' .. map)
    end
    if f[9] then
      redis.call('UNLINK', run .. ':children')
      redis.pcall('SREM', p .. 'cascades', id)
    end
    redis.call('UNLINK', run, run .. ':journal', run .. ':mailbox', run .. ':seen')
  end
  redis.call('ZREM', index, id)
end

local left = tonumber(ARGV[2])
for i = 3, #ARGV do
  for _, status in ipairs({ 'completed', 'failed', 'cancelled' }) do
    local index = p .. 'index:' .. status .. '/' .. ARGV[i]
    local due = redis.call('ZRANGE', index, '-inf', before, 'BYSCORE', 'LIMIT', '0', left)
    for _, id in ipairs(due) do
      local run = p .. 'run:' .. id
      -- A listing may be wrong; a run that is not over is never removed.
      local f = redis.pcall('HMGET', run, 'status', 'reference', 'tags', 'start_by', 'finish_by',
        'held', 'parent', 'maps', 'kin')
      -- A child is kept until its parent has taken its end, or is over itself.
      local awaited = f[6] and f[7] and redis.pcall('HGET', p .. 'run:' .. f[7], 'status')
      if awaited and not awaited.err and not FINAL[awaited] then
        redis.call('ZADD', index, ms(at), id)
      else
        remove(id, run, index, f, status)
      end
    end
    left = left - #due
  end
end
return tonumber(ARGV[2]) - left
