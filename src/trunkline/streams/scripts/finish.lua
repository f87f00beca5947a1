-- finish: an accepted request is no longer pending; its audit event is on its way.
-- Guarantee: exactly one caller finds the record, whoever ends the call: answer, cancellation, sweep or close.
-- record: field "p:<call>" of the session: lane entry, epoch ms of acceptance, JSON-RPC id, audit seed, a line each
local function finish(session, deadlines, usage, audit, member, call, record, now, outcome, worker)
  redis.call('HDEL', session, 'p:' .. call)
  if redis.call('ZREM', deadlines, member) == 1 and redis.call('HINCRBY', usage, 'inflight', -1) < 0 then
    redis.call('HDEL', usage, 'inflight')
  end
  local entry, accepted, id, seed = string.match(record, '^(.-)\n(.-)\n(.-)\n(.*)$')
  if seed ~= '' then
    redis.call('XADD', audit, '*', 'e', seed, 'o', outcome, 'ms', string.format('%d', now - accepted), 'w', worker)
  end
  return entry, id
end
