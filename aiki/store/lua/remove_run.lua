#!lua flags=allow-oom
-- uses: clock
-- Remove finished runs whose retention is over, each with every key and index entry it has.
-- KEYS  the key prefix
-- ARGV  retention in ms, how many at most, workflows
-- Reply runs removed
-- From  completed, failed, cancelled
local p = KEYS[1]
local before = ms(now() - ARGV[1])
local left = tonumber(ARGV[2])
for i = 3, #ARGV do
  for _, status in ipairs({ 'completed', 'failed', 'cancelled' }) do
    local index = p .. 'index:' .. status .. '/' .. ARGV[i]
    local due = redis.call('ZRANGE', index, '-inf', before, 'BYSCORE', 'LIMIT', '0', left)
    for _, id in ipairs(due) do
      local run = p .. 'run:' .. id
      -- A listing may be wrong; a run that is not over is never removed.
      local f = redis.pcall('HMGET', run, 'status', 'reference', 'streams')
      if f[1] == status then
        if f[2] then
          redis.call('DEL', p .. f[2])
        end
        -- Its owner notes its streams, each in a line: three words and the topic.
        for topic in string.gmatch(f[3] or '', '%S+ %S+ %S+ ([^\n]+)\n') do
          redis.call('UNLINK', run .. ':stream:' .. topic)
        end
        redis.call('UNLINK', run, run .. ':journal', run .. ':mailbox', run .. ':seen')
      end
      redis.call('ZREM', index, id)
    end
    left = left - #due
  end
end
return tonumber(ARGV[2]) - left
