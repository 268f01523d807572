-- FINAL: the statuses of runs that are over.
local FINAL = { completed = true, failed = true, cancelled = true, deleted = true }
