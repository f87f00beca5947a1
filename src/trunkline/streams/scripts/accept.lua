--@include renew
-- accept: a client's message becomes an accepted one: recorded as pending with its deadline and appended to its lane.
-- Guarantee: all of it or nothing; an accepted request is in `deadlines` until it is answered. Repeated, a request is
-- accepted once: it is still pending, or its answer is in the outbox. (A repeated notification may arrive twice.)
-- KEYS: 1 session, 2 outbox, 3 deadlines, 4 calls, 5 audit, 6 usage, 7 sessions of the tenant
-- ARGV: 1 principal, 2 call, 3 JSON-RPC id as JSON, '' for a notification, 4 body, 5 time for it in ms, 6 audit seed,
--       7 tenant, 8 session id, 9 caller, 10 session lifetime in ms, 11 longest lane, 12 longest audit backlog,
--       13 most in flight, 14 us between messages at the limit, 15 us of burst, 16 repeated
-- Returns 0, or {reason, ms after which to try again}: gone, lane, audit, inflight, rate.
local session = redis.call('HMGET', KEYS[1], 'principal', 'context', 'fresh')
if session[1] ~= ARGV[1] then return {'gone', 0} end
local call, request = ARGV[2], ARGV[3] ~= ''

if ARGV[16] == '1' and request then
  if redis.call('HEXISTS', KEYS[1], 'p:' .. call) == 1 then return 0 end
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-')) do
    if entry[2][4] == call then return 0 end
  end
end

if redis.call('XLEN', KEYS[4]) >= tonumber(ARGV[11]) then return {'lane', 1000} end
if redis.call('XLEN', KEYS[5]) >= tonumber(ARGV[12]) then return {'audit', 5000} end
local usage = redis.call('HMGET', KEYS[6], 'inflight', 'due')
local inflight = tonumber(usage[1] or 0)
if request and inflight >= tonumber(ARGV[13]) then return {'inflight', 1000} end

-- The generic cell rate algorithm: `due` is the theoretical arrival time of the next message, in epoch us.
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local due = math.max(tonumber(usage[2] or 0), us) + ARGV[14]
if due - us > tonumber(ARGV[15]) then return {'rate', math.ceil((due - us - ARGV[15]) / 1000)} end
if request then inflight = inflight + 1 end
redis.call('HSET', KEYS[6], 'due', string.format('%d', due), 'inflight', inflight)

local accepted = string.format('%d', now)
local deadline = request and string.format('%d', now + ARGV[5]) or '0'
local head = '1\n' .. call .. '\n' .. ARGV[7] .. '\n' .. ARGV[8] .. '\n' .. accepted .. '\n' .. deadline
local entry = redis.call('XADD', KEYS[4], '*', 'h', head, 'b', ARGV[4], 'a', ARGV[9], 'x', session[2] or '')
if request then
  redis.call('HSET', KEYS[1], 'p:' .. call, entry .. '\n' .. accepted .. '\n' .. ARGV[3] .. '\n' .. ARGV[6])
  redis.call('ZADD', KEYS[3], deadline, ARGV[7] .. ':' .. ARGV[8] .. ':' .. call)
end
if now > tonumber(session[3]) or not usage[2] then
  renew(KEYS[1], KEYS[7], ARGV[8], ARGV[10], now)
  redis.call('PEXPIRE', KEYS[6], ARGV[10])
end
return 0
