--@include pace
-- reply: a client's response to a request that a tool sent it.
-- Guarantee: of all responses to one request the first reaches the worker that asked, which finds it in Redis should it
-- miss the live copy; any other, and one that nobody waits for any more, changes nothing.
-- Field "<attempt>-<number>" of the questions: the worker that waits, or "!" and the response.
-- KEYS: 1 session, 2 questions of the call
-- ARGV: 1 owner, 2 call, 3 attempt and number of the request, 4 channels' beginning, 5 response, 6 us between messages at
--       the limit, 7 us of burst, 8 repeated
-- KEYS: 3 usage of the tenant
-- Returns 1, 0 when nobody waits for it, -1: no such session of this owner; {ms after which to try again}: the tenant sends
-- faster than it may.
if redis.call('HGET', KEYS[1], 'principal') ~= ARGV[1] then return -1 end
local early = pace(KEYS[3], ARGV[6], ARGV[7])
if early > 0 then return {early} end
local worker = redis.call('HGET', KEYS[2], ARGV[3])
if not worker then return 0 end
if string.sub(worker, 1, 1) == '!' then return ARGV[8] == '1' and worker == '!' .. ARGV[5] and 1 or 0 end
redis.call('HSET', KEYS[2], ARGV[3], '!' .. ARGV[5])
redis.call('PUBLISH', ARGV[4] .. worker, ARGV[2] .. '.' .. ARGV[3] .. '\n' .. ARGV[5])
return 1
