-- finish: an accepted request is no longer pending; its audit event is on its way.
-- Guarantee: exactly one caller finds the record, whoever ends the call: answer, cancellation, sweep or close. The
-- first write is one that a full Redis refuses, so a refusal leaves the request pending.
-- record: field "p:<call>" of the session: lane entry (with an "s" in front while it waits in the tenant's surplus),
-- epoch ms of acceptance, JSON-RPC id, stream (see route), audit seed, a line each
-- Field "o:<call>" tells which attempt was started, see start.
local function finish(session, audit, call, record, now, outcome, worker)
  local entry, accepted, id, seed = string.match(record, '^(.-)\n(.-)\n(.-)\n.-\n(.*)$')
  if seed ~= '' then
    redis.call('XADD', audit, '*', 'e', seed, 'o', outcome, 'ms', string.format('%d', now - accepted), 'w', worker)
  end
  redis.call('HDEL', session, 'p:' .. call, 'o:' .. call)
  return entry, id
end

-- withdraw: the entry of a call that has ended leaves the lane, or the surplus in which it waits.
local function withdraw(calls, base, entry)
  if string.sub(entry, 1, 1) == 's' then
    redis.call('XDEL', base .. 'surplus', string.sub(entry, 2))
  else
    redis.call('XACK', calls, 'workers', entry)
    redis.call('XDEL', calls, entry)
  end
end

-- call_off: the worker that runs a call stops it; the pods that wait for its answer wait no more.
local function call_off(control, call, sid)
  redis.call('PUBLISH', control, '{"kind":"CallCancelled","call_id":"' .. call .. '","session":"' .. sid .. '"}')
end

-- refill: as much of a tenant's surplus as has room there moves to its lane.
-- Guarantee: when this has run, a tenant has no surplus while it has fewer calls in its lane and running than the workers
-- have slots.
local function refill(lane, base, inflight)
  local surplus = base .. 'surplus'
  local waiting = redis.call('XLEN', surplus)
  if waiting == 0 then return end
  local room = tonumber(redis.call('GET', lane .. 'slots') or inflight) - (inflight - waiting)
  if room >= waiting then redis.call('SREM', lane .. 'surplus', base) end
  if room <= 0 then return end
  for _, entry in ipairs(redis.call('XRANGE', surplus, '-', '+', 'COUNT', room)) do
    local call, sid = string.match(entry[2][2], '^.-\n(.-)\n.-\n(.-)\n')
    local session = base .. 's:' .. sid
    local record = redis.call('HGET', session, 'p:' .. call)
    if record then
      local moved = redis.call('XADD', lane .. 'calls', '*', unpack(entry[2]))
      redis.call('HSET', session, 'p:' .. call, moved .. string.match(record, '\n.*'))
    end
    redis.call('XDEL', surplus, entry[1])
  end
end

-- forget: requests of a tenant that were finished leave the deadlines and its number in flight, and make room for its
-- surplus.
local function forget(deadlines, members, lane, base)
  for first = 1, #members, 1000 do -- as many as a call in Lua surely takes
    redis.call('ZREM', deadlines, unpack(members, first, math.min(first + 999, #members)))
  end
  local left = redis.call('HINCRBY', base .. 'usage', 'inflight', -#members)
  if left < 0 then redis.call('HDEL', base .. 'usage', 'inflight') end
  refill(lane, base, left)
end
