-- finish: an accepted request is no longer pending; its audit event is on its way.
-- Guarantee: exactly one caller gets the pending record, whoever ends the call: answer, cancellation or sweep.
-- Pending record: lane entry, epoch ms of acceptance, JSON-RPC id, audit seed, a line each.
local function finish(pending, deadlines, calls, audit, inflight, member, call, now, outcome, worker)
  local record = redis.call('HGET', pending, call)
  if redis.call('ZREM', deadlines, member) == 1 and redis.call('DECR', inflight) <= 0 then
    redis.call('DEL', inflight)
  end
  if not record then return nil end
  redis.call('HDEL', pending, call)
  local entry, accepted, id, seed = string.match(record, '^(.-)\n(.-)\n(.-)\n(.*)$')
  if seed ~= '' then
    redis.call('XADD', audit, '*', 'e', seed, 'o', outcome, 'ms', string.format('%.0f', now - accepted), 'w', worker)
  end
  return entry, id
end
