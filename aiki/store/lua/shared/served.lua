-- is_served(stream): whether a worker that has a lease reads a ready stream.
local function is_served(stream)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', p .. stream, 'workers')
  for _, consumer in ipairs(consumers) do
    if tonumber(redis.call('ZSCORE', p .. 'workers', consumer[2]) or 0) > 0 then
      return true
    end
  end
  return false
end
