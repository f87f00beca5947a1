--@include clock
--@include append
--@include finish
-- publish: the answer of a call.
-- Guarantee: the first answer of a pending call is appended to the outbox, audited and acknowledged in one step;
-- any further answer of it, or one after a cancellation or its deadline, is only acknowledged.
-- KEYS: 1 session, 2 outbox, 3 deadlines, 4 calls, 5 audit, 6 usage
-- ARGV: 1 session id, 2 call, 3 deadline member, 4 lane entry, 5 message, '' for a notification that ended,
--       6 new context of the session, '' for none, 7 outcome, 8 worker, 9 channels' beginning,
--       10 outbox messages, 11 outbox bytes, 12 outbox lifetime in ms, 13 repeated
-- Returns the offset of the answer, or 0 when it is not wanted.
redis.call('XACK', KEYS[4], 'workers', ARGV[4])
redis.call('XDEL', KEYS[4], ARGV[4])
if ARGV[5] == '' then return 0 end
local call = ARGV[2]
local state = redis.call('HMGET', KEYS[1], 'p:' .. call, 'box', 'holder')
if not state[1] then return 0 end
local now = clock()
finish(KEYS[1], KEYS[3], KEYS[6], KEYS[5], ARGV[3], call, state[1], now, ARGV[7], ARGV[8])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'context', ARGV[6]) end
return append(KEYS[1], KEYS[2], ARGV[1], ARGV[9], state[2], state[3], {ARGV[10], ARGV[11], ARGV[12]}, now, call, ARGV[5])
