-- A run's token is "epoch:random" while it has an owner and '' while it has none. Every write of
-- an owner carries it, as ARGV[2]; one that does not match changes nothing.
-- An entry of the journal is "kind token written due rest\npayload", where kind is o (open),
-- r (result), f (failure) or a (abandoned).
local function entry_head(value)
  return string.match(value, '^(%a) (%S+) (%d+) (%d+)')
end
