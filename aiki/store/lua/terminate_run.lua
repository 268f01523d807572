#!lua flags=allow-oom
-- uses: clock, waits, ready, index, enqueue, stir, counts, mail, final, family, conclude, finish, terminate
-- End a run at once, without its handler.
-- KEYS  the key prefix
-- ARGV  run id, reason
-- Reply the status it has now; 'NONE' where there is no such run
-- From  any that is not over -> cancelled; a run that is over stays as it is
local p = KEYS[1]
return terminate(ARGV[1], ARGV[2], ms(now())) or 'NONE'
