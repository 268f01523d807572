-- now(): the server's time in whole milliseconds, as a number; ms(n): such a number as text.
-- A plain tostring() would turn 13 digits into 1.7e+12.
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function ms(n)
  return string.format('%.0f', n)
end
