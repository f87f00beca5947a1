--@include clock
-- renew: a session lives on from now.
local function renew(session, sessions, sid, lifetime, now)
  redis.call('HSET', session, 'fresh', string.format('%d', now + lifetime * 0.1))
  redis.call('PEXPIRE', session, lifetime)
  redis.call('ZADD', sessions, now + lifetime, sid)
  redis.call('PEXPIRE', sessions, lifetime)
end
