--@include append
--@include finish
-- publish: the answer of a call.
-- Guarantee: the first answer of a pending call is appended to the outbox, audited and acknowledged in one step;
-- any further answer of it, or one after a cancellation or its deadline, is only acknowledged.
-- KEYS: 1 session, 2 outbox, 3 pending, 4 deadlines, 5 calls, 6 audit, 7 in flight
-- ARGV: 1 session id, 2 call, 3 deadline member, 4 lane entry, 5 message, '' for a notification that ended,
--       6 new context of the session, '' for none, 7 outcome, 8 worker, 9 channels' beginning,
--       10 outbox messages, 11 outbox bytes, 12 outbox lifetime in ms, 13 repeated
-- Returns the offset of the answer, or 0 when it is not wanted.
redis.call('XACK', KEYS[5], 'workers', ARGV[4])
redis.call('XDEL', KEYS[5], ARGV[4])
if ARGV[5] == '' then return 0 end
local now = clock()
local entry = finish(KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], ARGV[3], ARGV[2], now, ARGV[7], ARGV[8])
if not entry or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'context', ARGV[6]) end
local limits = {tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])}
return append(KEYS[1], KEYS[2], ARGV[1], ARGV[9], limits, now, ARGV[2], ARGV[5])
