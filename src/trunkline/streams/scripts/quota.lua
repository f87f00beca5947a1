--@include month
-- count: a metered call has ended: it is no longer open, and counts for the month in which it was accepted.
-- Guarantee: with its audit event, which finish adds in the same step: what was counted is in Postgres or on its way
-- there, so the sum can be made again from these, see seed.
-- Its first write is one that a full Redis takes: a call must be able to end.
-- session: the session's key; rest: what a record has after lane entry and stream, see record; how: how it ended, see
-- finish; mark: the byte behind the seed, see measure
local function count(session, call, rest, how, mark)
  local base = string.match(session, '^(.*:)s:[^:]*$')
  local accepted, key = string.match(rest, '^(%d+)\n.-\n%["(.-)"')
  if mark ~= 32 then redis.call('ZREM', base .. 'key:' .. key, call) end
  if mark == 13 then return end
  redis.call('ZREM', base .. 'quota:open', call)
  local compute = tonumber(string.match(how, '\n(%d+)'))
  local used = base .. 'quota:' .. month(accepted)
  redis.call('HINCRBY', used, 'calls', 1)
  if compute > 0 then redis.call('HINCRBY', used, 'us', compute) end
  if mark == 9 then
    redis.call('HINCRBY', used, 'calls:' .. key, 1)
    if compute > 0 then redis.call('HINCRBY', used, 'us:' .. key, compute) end
  end
  redis.call('PEXPIRE', used, 3456000000)
end
