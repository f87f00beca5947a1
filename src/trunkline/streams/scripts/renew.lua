--@include clock
-- renew: a session lives on from now, and so does what it has subscribed to.
local function renew(session, sessions, sid, lifetime, now)
  redis.call('HSET', session, 'fresh', string.format('%d', now + lifetime * 0.1))
  redis.call('PEXPIRE', session, lifetime)
  redis.call('ZADD', sessions, now + lifetime, sid)
  redis.call('PEXPIRE', sessions, lifetime)
  if redis.call('PEXPIRE', session .. ':subs', lifetime) == 1 then
    redis.call('PEXPIRE', string.gsub(sessions, 'sessions$', 'subscribers'), lifetime)
  end
end
