-- throttle: count one try against a rate (GCRA, see accept).
-- Guarantee: of any number who try at once, no more than the burst get 0; the others get ms to wait. Repeated, it may
-- count twice.
-- KEYS: 1 throttle   ARGV: 1 us between tries, 2 us of burst, 3 repeated
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), us) + ARGV[1]
if due - us > tonumber(ARGV[2]) then return math.ceil((due - us - ARGV[2]) / 1000) end
redis.call('SET', KEYS[1], string.format('%d', due), 'PX', math.ceil(ARGV[2] * 2 / 1000))
return 0
