--@include clock
-- gauge: how much waits in a lane, and since when.
-- Guarantee: nothing is changed.
-- KEYS: 1 calls, 2 deadlines, 3 parked, 4 audit, 5 unwritten
-- ARGV: 1 what the lane's keys begin with, 2 repeated
-- Returns what no worker has claimed, the age in ms of the oldest of that; unanswered requests; calls set aside; audit events that
-- are not written, the age in ms of the oldest.
local now, claimed, last = clock(), 0, '0-0'
local function age(entry) return entry and math.max(0, now - string.match(entry[1], '^%d+')) or 0 end

-- Before the first worker there is no group.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
for _, group in ipairs(groups) do
  for n = 1, #group, 2 do
    if group[n] == 'pending' then claimed = group[n + 1] end
    if group[n] == 'last-delivered-id' then last = group[n + 1] end
  end
end
local waiting = redis.call('XLEN', KEYS[1]) - claimed
local oldest = age(redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1])
for _, base in ipairs(redis.call('SMEMBERS', ARGV[1] .. 'surplus')) do
  waiting = waiting + redis.call('XLEN', base .. 'surplus')
  oldest = math.max(oldest, age(redis.call('XRANGE', base .. 'surplus', '-', '+', 'COUNT', 1)[1]))
end
return {waiting, oldest, redis.call('ZCARD', KEYS[2]), redis.call('XLEN', KEYS[3]), tonumber(redis.call('GET', KEYS[5]) or 0),
  age(redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1])}
