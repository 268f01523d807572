-- A run's token is "epoch:random" while it has an owner and '' while it has none. Every write of
-- an owner carries it, as ARGV[2]; one that does not match changes nothing.
-- An entry of the journal is "kind token written due rest\npayload", where kind is o (open),
-- r (result), f (failure), t (timed out), n (a note) or a (abandoned).
-- flags(cancel, news): the reply of a commit: twice the number of things that have happened to
-- the run from outside, and 1 more where a cancel is wanted.
local function entry_head(value)
  return string.match(value, '^(%a) (%S+) (%d+) (%d+)')
end
local function flags(cancel, news)
  return (tonumber(news) or 0) * 2 + (cancel and 1 or 0)
end
