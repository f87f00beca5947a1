-- finish: an accepted request is no longer pending; its audit event is on its way when `audit` has been called, which a
-- script does before it ends.
-- Guarantee: exactly one caller finds the record, whoever ends the call: answer, cancellation, sweep or close.
-- The record of a stateless request leaves with it.
-- place: see route; member: "<tenant>:<session>:<call>"; rest: what the record has after lane entry and stream, see record;
-- how: how it ended, in lines: outcome, us for which it ran, bytes of its answer
-- Field "o:<call>" tells which attempt was started, see start.
local events, ended = {}, nil
local function finish(session, call, place, member, rest, now, how, worker)
  local mark = string.byte(rest, -1)
  if mark ~= 10 then -- it has a seed
    if mark < 33 then count(session, call, rest, how, mark) end
    ended = ended or string.format('%d', now)
    local n = #events
    events[n + 1], events[n + 2], events[n + 3], events[n + 4], events[n + 5] = member, how, worker, ended, rest
  end
  if place == '-' then
    redis.call('DEL', session)
  else
    redis.call('HDEL', session, 'p:' .. call, 'o:' .. call)
  end
end

-- audit: the events of the calls that this script has finished.
-- Entry: field e, at most 64 events, of each in lines: member, outcome, us, bytes of the answer, worker ('' for none), epoch ms
-- at which it ended, epoch ms of acceptance, JSON-RPC id, seed. `unwritten` counts the events of all entries, see written.
local function audit(lane)
  for first = 1, #events, 320 do
    local last = math.min(first + 319, #events)
    redis.call('XADD', lane .. 'audit', '*', 'e', table.concat(events, '\n', first, last))
  end
  if #events > 0 then redis.call('INCRBY', lane .. 'unwritten', #events / 5) end
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
