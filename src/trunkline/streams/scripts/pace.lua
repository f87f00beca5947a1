-- pace: a message that does not go through accept counts against its tenant's rate, too (GCRA, see there).
-- Returns ms after which to try again; 0, and it is counted.
local function pace(usage, interval, burst)
  if tonumber(interval) == 0 then return 0 end
  local time = redis.call('TIME')
  local us = time[1] * 1000000 + time[2]
  local due = math.max(tonumber(redis.call('HGET', usage, 'due') or 0), us) + interval
  if due - us > tonumber(burst) then return math.ceil((due - us - burst) / 1000) end
  redis.call('HSET', usage, 'due', string.format('%d', due))
  redis.call('PEXPIRE', usage, math.ceil(burst / 1000) + 60000, 'NX')
  return 0
end
