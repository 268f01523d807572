-- close(run, key, entry, token): close a free or open entry of a journal. Gives nil where that is
-- done, now or before by the same owner; else the word why not.
local function close(run, key, entry, token)
  local journal = run .. ':journal'
  if redis.call('HSETNX', journal, key, entry) == 0 then
    local kind, by = entry_head(redis.call('HGET', journal, key))
    if kind == 'o' then
      redis.call('HSET', journal, key, entry)
      redis.call('HDEL', run, 'progress') -- the journal grew no longer, yet this is progress
    elseif by ~= token then
      return 'DIVERGED'
    elseif kind == 'a' then
      return 'ABANDONED'
    end
  end
end
