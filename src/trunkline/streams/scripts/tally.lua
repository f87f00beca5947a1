-- tally: count something that is told at most once in a while.
-- Guarantee: of any number who count at once, one gets how often it was counted since it was last told, the others 0.
-- Repeated, it may count twice, or tell nothing until the while is over.
-- KEYS: 1 tally   ARGV: 1 ms of the while, 2 ms that it is remembered, 3 repeated
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
local count = redis.call('HINCRBY', KEYS[1], 'count', 1)
local told = tonumber(redis.call('HGET', KEYS[1], 'told') or 0)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ms - told < tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'count', 0, 'told', string.format('%d', ms))
return count
