#!lua flags=allow-oom
-- uses: clock, waits, ready, served, index, enqueue, stir, counts, mail, final, family, conclude, finish, cancel
-- Ask a run to end. Where a handler may have something to clean up, it is told; elsewhere the
-- run ends here. Asked again, it tells the owner again, and ends what nobody serves any more.
-- KEYS  the key prefix
-- ARGV  run id, reason as stored
-- Reply the status it has now; 'NONE' where there is no such run
-- From  queued, paused or one that waits -> queued, or cancelled where nobody serves it; running ->
--       running; scheduled, stalled -> cancelled; a run that is over stays as it is
local p = KEYS[1]
return cancel(ARGV[1], ARGV[2], ms(now())) or 'NONE'
