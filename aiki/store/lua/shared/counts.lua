-- check_counts(values): fail where one of these fields, which are about to be counted up or down, is
-- no whole number. HINCRBY would, after other things have been written.
local function check_counts(values)
  for _, value in ipairs(values) do
    if value and (#value > 15 or not string.match(value, '^%-?%d+$')) then
      error('a count in a record is damaged')
    end
  end
end
