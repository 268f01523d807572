-- finish(id, run, workflow, watchers, from, to, field, payload, token, at, kin): conclude a run, and
-- tell its parent and its children.
local function finish(id, run, workflow, watchers, from, to, field, payload, token, at, kin)
  conclude(id, run, workflow, watchers, from, to, field, payload, token, at)
  if kin then
    family(id, run, kin, to, at)
  end
end
