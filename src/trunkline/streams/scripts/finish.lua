-- finish: an accepted request is no longer pending; its audit event is on its way.
-- Guarantee: exactly one caller finds the record, whoever ends the call: answer, cancellation, sweep or close. The
-- first write is one that a full Redis refuses, so a refusal leaves the request pending.
-- record: field "p:<call>" of the session: lane entry, epoch ms of acceptance, JSON-RPC id, audit seed, a line each
local function finish(session, audit, call, record, now, outcome, worker)
  local entry, accepted, id, seed = string.match(record, '^(.-)\n(.-)\n(.-)\n(.*)$')
  if seed ~= '' then
    redis.call('XADD', audit, '*', 'e', seed, 'o', outcome, 'ms', string.format('%d', now - accepted), 'w', worker)
  end
  redis.call('HDEL', session, 'p:' .. call)
  return entry, id
end

-- forget: requests that were finished leave the deadlines and their tenant's number in flight.
local function forget(deadlines, members, usage, count)
  redis.call('ZREM', deadlines, unpack(members))
  if redis.call('HINCRBY', usage, 'inflight', -count) < 0 then redis.call('HDEL', usage, 'inflight') end
end
