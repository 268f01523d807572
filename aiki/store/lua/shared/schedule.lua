-- A schedule is its record, `schedule:<id>`; `schedules` is an index of it, by when to look at it.
-- Of its fields with one line for each item, `running` holds runs that may not be over yet,
-- `recent` run and occurrence of the last ones started, and `buffer` run, occurrence and policy of
-- those that wait for the end of the ones before. A record that is one holds them as text.
local BUFFER, RUNNING, RECENT = 1000, 100, 20 -- at most so many lines
local LOOK = 5000 -- ms; a buffer whose hint was lost is looked at so often

local function lines_of(text)
  local lines = {}
  for line in string.gmatch(text or '', '[^\n]+') do
    lines[#lines + 1] = line
  end
  return lines
end

-- The last n of them, as they are stored.
local function text_of(lines, n)
  local kept = table.concat(lines, '\n', math.max(1, #lines - n + 1))
  return kept == '' and '' or kept .. '\n'
end

-- read_schedule(id): the record as a table; nil where there is none. Fails for a damaged one.
local function read_schedule(id)
  local key = p .. 'schedule:' .. id
  local f = redis.call('HMGET', key, 'digest', 'workflow', 'version', 'pool', 'input', 'overlap',
    'planned', 'due', 'paused', 'buffer', 'running', 'recent', 'started', 'skipped', 'dropped',
    'missed', 'more')
  if not f[1] then
    return nil
  end
  for i = 2, 8 do
    if not f[i] then
      error('schedule ' .. id .. ' is damaged: a field of its record is missing')
    end
  end
  if not string.match(f[7], '^%d+$') or not string.match(f[8], '^%d+$') then
    error('schedule ' .. id .. ' is damaged: its next time is none')
  end
  return { id = id, key = key, digest = f[1], workflow = f[2], version = f[3], pool = f[4],
    input = f[5], overlap = f[6], planned = f[7], due = f[8], paused = f[9] == '1',
    buffer = lines_of(f[10]), running = lines_of(f[11]), recent = lines_of(f[12]),
    started = tonumber(f[13]) or 0, skipped = tonumber(f[14]) or 0,
    dropped = tonumber(f[15]) or 0, missed = tonumber(f[16]) or 0, more = f[17] or '' }
end

-- index_schedule(s, at): note when to look at it. A paused one is listed, and never due.
local function index_schedule(s, at)
  local look = tonumber(s.due)
  if #s.buffer > 0 then
    look = math.min(look, #s.running > 0 and at + LOOK or at)
  end
  redis.pcall('ZADD', p .. 'schedules', s.paused and '+inf' or ms(look), s.id)
end

-- write_schedule(s, at): store what may have changed.
local function write_schedule(s, at)
  redis.call('HSET', s.key, 'planned', s.planned, 'due', s.due,
    'buffer', text_of(s.buffer, BUFFER), 'running', text_of(s.running, RUNNING),
    'recent', text_of(s.recent, RECENT), 'started', ms(s.started), 'skipped', ms(s.skipped),
    'dropped', ms(s.dropped), 'missed', ms(s.missed))
  index_schedule(s, at)
end
