-- loosened(entry): a journal entry that is given whenever it is asked for, in no order: its seq is 0.
-- checkpoint(run, first, dropped): take out of a journal what the next attempt does without. The
-- arguments of the script, from the `first`, name `dropped` entries to remove, then those to loosen.
local function loosened(entry)
  return (string.gsub(entry, '^(%a %S+ %d+ %d+) %d+', '%1 0', 1))
end
local function checkpoint(run, first, dropped)
  local journal = run .. ':journal'
  for i = first, #ARGV do
    if i < first + dropped then
      redis.call('HDEL', journal, ARGV[i])
    else
      local entry = redis.call('HGET', journal, ARGV[i])
      if entry then
        redis.call('HSET', journal, ARGV[i], loosened(entry))
      end
    end
  end
end
