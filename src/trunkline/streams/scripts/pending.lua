-- pending: the requests of a session that are not answered yet, for the pod that holds its stream.
-- An idle session has six fields, and one more when it is initialized: only one that has others is looked through.
-- Returns a flat list: call, JSON-RPC id, ms left until its deadline, -1 when it has none.
local function pending(session, deadlines, members, now)
  local found = {}
  if redis.call('HLEN', session) <= 6 + redis.call('HEXISTS', session, 'context') then return found end
  local fields = redis.call('HGETALL', session)
  for i = 1, #fields, 2 do
    local call = string.match(fields[i], '^p:(.*)$')
    if call then
      local deadline = redis.call('ZSCORE', deadlines, members .. call)
      table.insert(found, call)
      table.insert(found, (string.match(fields[i + 1], '^.-\n.-\n(.-)\n')))
      table.insert(found, deadline and math.max(deadline - now, 0) or -1)
    end
  end
  return found
end
