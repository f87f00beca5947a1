-- begin: a new session.
-- Guarantee: never more sessions of a tenant, or of a key with a limit of its own, than the limit, nor opened faster. At the
-- limit the session that was left longest ends, if nobody has used it for 5 minutes (an open stream renews its session
-- every minute) and it waits for no answer: many clients never say that they will not come back. A refusal changes
-- nothing: the first write is one that a full Redis refuses.
-- holder: of the session's own stream; most: of the tenant, and behind a space of the key where that has a limit
-- The sessions of a key with a limit are those of the set beside `sessions` that `sessions` still has: whatever ends a session
-- need know of one of them alone.
-- Returns nothing, or {reason, ms after which to try again}: sessions, key sessions, rate.

-- Of the key with a limit that owns a session: the set of its sessions.
local function of_key(sessions, owner)
  return string.gsub(sessions, 'sessions$', '') .. 'key:' .. string.match(owner, ' (.*)$') .. ':sessions'
end

-- The session to end in the place of a new one, of those that live, the one left longest first; nil where none may.
local function to_end(session, sid, left, now, lifetime)
  if not left[1] or tonumber(left[2]) > now + lifetime - 300000 then return nil end
  local oldest = string.sub(session, 1, -#sid - 1) .. left[1]
  for _, field in ipairs(redis.call('HKEYS', oldest)) do
    if string.sub(field, 1, 2) == 'p:' then return nil end
  end
  return oldest
end

local function begin(session, sessions, usage, sid, owner, holder, caller, lifetime, most, interval, burst, us)
  local now = math.floor(us / 1000)
  -- The generic cell rate algorithm, as in accept.
  local due = math.max(tonumber(redis.call('HGET', usage, 'opened') or 0), us) + interval
  local early = due - us - burst
  if early > 0 then return {'rate', math.ceil(early / 1000)} end

  local alive, left, oldest = string.format('(%d', now), {}, nil
  local of_tenant, of_one = string.match(most, '^(%d+) ?(%d*)$')
  local mine = of_one ~= '' and of_key(sessions, owner)
  if mine then
    local live = {}
    local found = redis.call('ZINTER', 2, mine, sessions, 'WEIGHTS', 0, 1, 'WITHSCORES')
    for n = 1, #found, 2 do
      if tonumber(found[n + 1]) > now then live[#live + 1], live[#live + 2] = found[n], found[n + 1] end
    end
    if #live / 2 >= tonumber(of_one) then
      left = live
      oldest = to_end(session, sid, left, now, lifetime)
      if not oldest then return {'key sessions', 30000} end
    end
  end
  if not oldest and redis.call('ZCOUNT', sessions, alive, '+inf') >= tonumber(of_tenant) then
    left = redis.call('ZRANGEBYSCORE', sessions, alive, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    oldest = to_end(session, sid, left, now, lifetime)
    if not oldest then return {'sessions', 30000} end
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
  if mine then
    redis.call('ZINTERSTORE', mine, 2, mine, sessions, 'WEIGHTS', 0, 1)
    redis.call('ZADD', mine, now + lifetime, sid)
    redis.call('PEXPIRE', mine, 3456000000) -- a session that is used lives on without it
  end
end
