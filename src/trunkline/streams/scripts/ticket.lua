-- ticket: take a one-time ticket.
-- Guarantee: of all who present it, one gets what it stands for. Repeated by the same taker, it is given again.
-- Value: who took it, '' before that, and what it stands for, a line each.
-- KEYS: 1 ticket   ARGV: 1 taker, 2 repeated
local kept = redis.call('GET', KEYS[1])
if not kept then return false end
local taker, stands_for = string.match(kept, '^(.-)\n(.*)$')
if taker ~= '' and taker ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[1] .. '\n' .. stands_for, 'KEEPTTL')
return stands_for
