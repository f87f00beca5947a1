-- open: a new session whose stream this pod holds.
-- Guarantee: never more sessions of a tenant than its limit, nor opened faster; repeated, it opens the same session. At
-- the limit the session that was left longest ends, if nobody has used it for 5 minutes (an open stream renews its
-- session every minute) and it waits for no answer: clients of this transport have no way to say that they will not
-- come back. A refusal changes nothing: the first write is one that a full Redis refuses.
-- KEYS: 1 session, 2 sessions of the tenant, 3 usage
-- ARGV: 1 session id, 2 principal, 3 transport, 4 pod, 5 lifetime in ms, 6 most sessions, 7 caller, 8 us between
--       sessions at the limit, 9 us of burst, 10 repeated
-- Returns 0, or {reason, ms after which to try again}: sessions, rate.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)

-- The generic cell rate algorithm, as in accept.
local due = math.max(tonumber(redis.call('HGET', KEYS[3], 'opened') or 0), us) + ARGV[8]
local early = due - us - ARGV[9]
if early > 0 then return {'rate', math.ceil(early / 1000)} end

local alive, left, session = string.format('(%d', now), {}, nil
if redis.call('ZCOUNT', KEYS[2], alive, '+inf') >= tonumber(ARGV[6]) then
  left = redis.call('ZRANGEBYSCORE', KEYS[2], alive, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if not left[1] or tonumber(left[2]) > now + ARGV[5] - 300000 then return {'sessions', 30000} end
  session = string.sub(KEYS[1], 1, -#ARGV[1] - 1) .. left[1]
  for _, field in ipairs(redis.call('HKEYS', session)) do
    if string.sub(field, 1, 2) == 'p:' then return {'sessions', 30000} end
  end
end

redis.call('HSET', KEYS[3], 'opened', string.format('%d', due))
redis.call('PEXPIRE', KEYS[3], ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if session then
  redis.call('DEL', session, session .. ':out')
  redis.call('ZREM', KEYS[2], left[1])
end
redis.call('HSET', KEYS[1], 'principal', ARGV[2], 'transport', ARGV[3], 'caller', ARGV[7], 'holder', '1 ' .. ARGV[4],
  'box', '0 1 0 0',
  'fresh', string.format('%d', now + ARGV[5] * 0.1))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 0
