-- WAITS: the statuses of a run that has left its worker until something in the store wakes it.
local WAITS = { awaiting_retry = true, sleeping = true, awaiting_event = true,
  awaiting_child = true }
