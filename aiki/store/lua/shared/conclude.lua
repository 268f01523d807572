-- conclude(id, run, workflow, watchers, from, to, field, payload, token, at): end a run for good. Its
-- place in the index of its last status, by time, is also its retention. Watchers are sent the
-- outcome too, unless it is so long that they had better ask for it.
local function conclude(id, run, workflow, watchers, from, to, field, payload, token, at)
  redis.call('HSET', run, 'status', to, 'since', at, 'owner', '', 'token', token, field, payload)
  move(id, workflow, from, to, at)
  if watchers then
    local message = id .. ' ' .. to .. (#payload <= 65536 and ' ' .. payload or '')
    for inbox in string.gmatch(watchers, '[^\n]+') do
      redis.pcall('PUBLISH', inbox, message)
    end
  end
end
