#!lua flags=allow-oom
-- Try commands that scripts use, on keys of its own. Where a user may not run one of them, a script
-- would stop at it half-way, and nothing is rolled back: so it is asked before.
-- KEYS  the key prefix
-- ARGV  the names of those that are meant, as the server's rights name them; others are passed over
-- Reply what was refused, in the server's words
local p = KEYS[1]
local t = p .. 'preflight:'
local commands = {
  { 'TIME' },
  { 'SCAN', '0', 'COUNT', '1' },
  { 'HSET', t .. 'hash', 'field', '1' },
  { 'HSETNX', t .. 'hash', 'field', '1' },
  { 'HGET', t .. 'hash', 'field' },
  { 'HMGET', t .. 'hash', 'field' },
  { 'HGETALL', t .. 'hash' },
  { 'HKEYS', t .. 'hash' },
  { 'HLEN', t .. 'hash' },
  { 'HRANDFIELD', t .. 'hash', '1', 'WITHVALUES' },
  { 'HEXISTS', t .. 'hash', 'field' },
  { 'HSCAN', t .. 'hash', '0' },
  { 'HDEL', t .. 'hash', 'other' },
  { 'HSTRLEN', t .. 'hash', 'field' },
  { 'HINCRBY', t .. 'hash', 'number', '1' },
  { 'EXISTS', t .. 'hash' },
  { 'TYPE', t .. 'hash' },
  { 'EXPIRE', t .. 'hash', '60' },
  { 'SADD', t .. 'set', 'a' },
  { 'SCARD', t .. 'set' },
  { 'SMEMBERS', t .. 'set' },
  { 'SISMEMBER', t .. 'set', 'a' },
  { 'SSCAN', t .. 'set', '0' },
  { 'SRANDMEMBER', t .. 'set', '1' },
  { 'SREM', t .. 'set', 'b' },
  { 'ZADD', t .. 'sorted', '1', 'a' },
  { 'ZCARD', t .. 'sorted' },
  { 'ZSCORE', t .. 'sorted', 'a' },
  { 'ZSCAN', t .. 'sorted', '0' },
  { 'ZRANGE', t .. 'sorted', '0', '0' },
  { 'ZRANDMEMBER', t .. 'sorted', '1' },
  { 'ZREM', t .. 'sorted', 'b' },
  { 'ZREMRANGEBYSCORE', t .. 'sorted', '2', '3' },
  { 'XGROUP', 'CREATE', t .. 'stream', 'workers', '0', 'MKSTREAM' },
  { 'XGROUP', 'CREATECONSUMER', t .. 'stream', 'workers', 'a' },
  { 'XADD', t .. 'stream', '1-1', 'a', 'b' },
  { 'XLEN', t .. 'stream' },
  { 'XRANGE', t .. 'stream', '-', '+' },
  { 'XREADGROUP', 'GROUP', 'workers', 'a', 'STREAMS', t .. 'stream', '>' },
  { 'XPENDING', t .. 'stream', 'workers' },
  { 'XINFO', 'CONSUMERS', t .. 'stream', 'workers' },
  { 'XACK', t .. 'stream', 'workers', '1-1' },
  { 'XDEL', t .. 'stream', '1-1' },
  { 'XGROUP', 'DELCONSUMER', t .. 'stream', 'workers', 'a' },
  { 'PUBLISH', p .. 'preflight', '' },
  { 'DEL', t .. 'hash', t .. 'set' },
  { 'UNLINK', t .. 'sorted', t .. 'stream' },
}
local is_meant = {}
for _, name in ipairs(ARGV) do
  is_meant[name] = true
end
local refused = {}
for _, command in ipairs(commands) do
  local name = string.lower(command[1])
  -- Who may not do something is not to be found in the server's log of refusals for having tried.
  if is_meant[name] or is_meant[name .. '|' .. string.lower(command[2] or '')] then
    local reply = redis.pcall(unpack(command))
    if type(reply) == 'table' and reply.err then
      refused[#refused + 1] = command[1] .. ': ' .. reply.err
    end
  end
end
return refused
