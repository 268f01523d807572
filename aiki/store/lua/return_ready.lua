#!lua flags=allow-oom
-- uses: again
-- Add ready entries anew that were read and are more than the reader has slots for.
-- KEYS  the key prefix
-- ARGV  stream (without prefix), entry id, stream, entry id, ...
-- Reply 'OK'
local p = KEYS[1]
for i = 1, #ARGV, 2 do
  again(ARGV[i], ARGV[i + 1])
end
return 'OK'
