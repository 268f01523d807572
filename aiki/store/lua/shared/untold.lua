-- untold(run, streams): note of the streams of a run that its handler, which begins anew, has told
-- none of their chunks, and has closed none.
local function untold(run, streams)
  if streams then
    local fresh = string.gsub('\n' .. streams, '\n%d+ (%d+) (%d+)%S* ', '\n0 %1 %2 ')
    redis.call('HSET', run, 'streams', string.sub(fresh, 2))
  end
end
