-- begin: a new session.
-- Guarantee: never more sessions of a tenant than its limit, nor opened faster. At the limit the session that was left
-- longest ends, if nobody has used it for 5 minutes (an open stream renews its session every minute) and it waits for no
-- answer: many clients never say that they will not come back. A refusal changes nothing: the first write is one that a
-- full Redis refuses.
-- holder: of the session's own stream
-- Returns nothing, or {reason, ms after which to try again}: sessions, rate.
local function begin(session, sessions, usage, sid, owner, holder, caller, lifetime, most, interval, burst, us)
  local now = math.floor(us / 1000)
  -- The generic cell rate algorithm, as in accept.
  local due = math.max(tonumber(redis.call('HGET', usage, 'opened') or 0), us) + interval
  local early = due - us - burst
  if early > 0 then return {'rate', math.ceil(early / 1000)} end

  local alive, left, oldest = string.format('(%d', now), {}, nil
  if redis.call('ZCOUNT', sessions, alive, '+inf') >= tonumber(most) then
    left = redis.call('ZRANGEBYSCORE', sessions, alive, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if not left[1] or tonumber(left[2]) > now + lifetime - 300000 then return {'sessions', 30000} end
    oldest = string.sub(session, 1, -#sid - 1) .. left[1]
    for _, field in ipairs(redis.call('HKEYS', oldest)) do
      if string.sub(field, 1, 2) == 'p:' then return {'sessions', 30000} end
    end
  end

  redis.call('HSET', usage, 'opened', string.format('%d', due))
  redis.call('PEXPIRE', usage, lifetime)
  redis.call('ZREMRANGEBYSCORE', sessions, '-inf', now)
  if oldest then
    redis.call('DEL', oldest, oldest .. ':out', oldest .. ':subs')
    redis.call('ZREM', sessions, left[1])
    redis.call('SREM', string.gsub(sessions, 'sessions$', 'subscribers'), left[1])
  end
  redis.call('HSET', session, 'principal', owner, 'caller', caller, 'holder', holder, 'box', '0 1 0 0',
    'fresh', string.format('%d', now + lifetime * 0.1))
  redis.call('PEXPIRE', session, lifetime)
  redis.call('ZADD', sessions, now + lifetime, sid)
  redis.call('PEXPIRE', sessions, lifetime)
end
