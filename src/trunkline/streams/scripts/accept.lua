-- accept: a client's message becomes an accepted one: recorded as pending with its deadline and appended to its lane.
-- Guarantee: all of it or nothing; an accepted request is in `deadlines` until it is answered. Repeated, a request is
-- accepted once: it is still pending, or its answer is in the outbox. (A repeated notification may arrive twice.)
-- KEYS: 1 session, 2 outbox, 3 pending, 4 deadlines, 5 calls, 6 audit, 7 in flight, 8 rate, 9 sessions of the tenant
-- ARGV: 1 principal, 2 call, 3 JSON-RPC id as JSON, '' for a notification, 4 body, 5 time for it in ms, 6 audit seed,
--       7 tenant, 8 session id, 9 caller, 10 session lifetime in ms, 11 longest lane, 12 longest audit backlog,
--       13 most in flight, 14 us between messages at the limit, 15 us of burst, 16 repeated
-- Returns 0, or {reason, ms after which to try again}: gone, lane, audit, inflight, rate.
local session = redis.call('HMGET', KEYS[1], 'principal', 'context')
if session[1] ~= ARGV[1] then return {'gone', 0} end
local call, id, request = ARGV[2], ARGV[3], ARGV[3] ~= ''

if ARGV[16] == '1' and request then
  if redis.call('HEXISTS', KEYS[3], call) == 1 then return 0 end
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-')) do
    if entry[2][4] == call then return 0 end
  end
end

if redis.call('XLEN', KEYS[5]) >= tonumber(ARGV[11]) then return {'lane', 1000} end
if redis.call('XLEN', KEYS[6]) >= tonumber(ARGV[12]) then return {'audit', 5000} end
if request and tonumber(redis.call('GET', KEYS[7]) or 0) >= tonumber(ARGV[13]) then return {'inflight', 1000} end

-- The generic cell rate algorithm: KEYS[8] holds the theoretical arrival time of the next message.
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local due = math.max(tonumber(redis.call('GET', KEYS[8]) or 0), us) + tonumber(ARGV[14])
local ahead = due - us
if ahead > tonumber(ARGV[15]) then return {'rate', math.ceil((ahead - ARGV[15]) / 1000)} end
redis.call('SET', KEYS[8], string.format('%.0f', due), 'PX', math.ceil(ahead / 1000) + 1)

local deadline = request and string.format('%.0f', now + ARGV[5]) or '0'
local entry = redis.call('XADD', KEYS[5], '*', 'v', '1', 'c', call, 't', ARGV[7], 's', ARGV[8], 'b', ARGV[4], 'a', ARGV[9],
  'x', session[2] or '', 'e', string.format('%.0f', now), 'd', deadline)
if request then
  redis.call('HSET', KEYS[3], call, table.concat({entry, string.format('%.0f', now), id, ARGV[6]}, '\n'))
  redis.call('ZADD', KEYS[4], deadline, ARGV[7] .. ':' .. ARGV[8] .. ':' .. call)
  redis.call('INCR', KEYS[7])
  redis.call('PEXPIRE', KEYS[3], ARGV[10])
end
if redis.call('PTTL', KEYS[1]) < ARGV[10] * 0.9 then
  redis.call('PEXPIRE', KEYS[1], ARGV[10])
  redis.call('ZADD', KEYS[9], now + ARGV[10], ARGV[8])
  redis.call('PEXPIRE', KEYS[9], ARGV[10])
end
return 0
