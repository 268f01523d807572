-- loosened(entry): a journal entry that is given whenever it is asked for, in no order: its seq is 0.
-- checkpoint(run, first, dropped): take out of a journal what the next attempt does without. The
-- arguments of the script, from the `first`, name `dropped` entries to remove, then those to loosen.
-- Where the end of a child is removed, the run is told of it once more.
local function loosened(entry)
  return (string.gsub(entry, '^(%a %S+ %d+ %d+) %d+', '%1 0', 1))
end
local function tell_again(run, child)
  local c = redis.pcall('HMGET', p .. 'run:' .. child, 'status', 'held')
  local status = c[1]
  if c[2] then
    return -- the run has still to take what it was told
  end
  if status == 'completed' or status == 'failed' or status == 'cancelled' then
    local number = redis.call('HINCRBY', run, 'news', 1)
    redis.call('HSET', run .. ':mailbox', number, 'end/' .. child .. '\n' .. status)
    redis.call('HINCRBY', run, 'ends', 1)
    redis.call('HSET', p .. 'run:' .. child, 'held', '1')
  end
end
local function checkpoint(run, first, dropped)
  local journal, told = run .. ':journal', {}
  for i = first, #ARGV do
    if i < first + dropped then
      redis.call('HDEL', journal, ARGV[i])
      local child = string.match(ARGV[i], '^end/(.+)#%d+$')
      if child and not told[child] then
        told[child] = true
        tell_again(run, child)
      end
    else
      local entry = redis.call('HGET', journal, ARGV[i])
      if entry then
        redis.call('HSET', journal, ARGV[i], loosened(entry))
      end
    end
  end
end
