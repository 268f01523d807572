-- child(id, run, generation, child_id, slot, policy, ...): start a run that belongs to this
-- generation of another one; the rest are what `start` takes after the id. `adopt` notes in the
-- parent's record that it has children.
local function child(id, run, generation, child_id, slot, policy, ...)
  local born = p .. 'run:' .. child_id
  if redis.call('EXISTS', born) == 1 then
    return -- before, by the same owner or an earlier one; it may be over by now
  end
  start(child_id, ...)
  redis.call('HSET', born, 'parent', id, 'slot', slot, 'kin', 'p', 'policy', policy,
    'parent_generation', generation or '0')
  redis.call('HSET', run .. ':children', child_id, policy)
end
local function adopt(run, kin)
  if not string.find(kin or '', 'c') then
    redis.call('HSET', run, 'kin', (kin or '') .. 'c')
  end
end
