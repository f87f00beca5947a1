-- pending: the requests of a session that are not answered yet, for the pod that holds one of its streams.
-- stream: whose answers come on that stream, '' for the session's own (see route)
-- The stream of a POST has the request that it is named by; one of a batch ("batch" in its record) may have others. An idle
-- session has five fields, and one more when it is initialized: only one that has others is looked through.
-- Returns a flat list: call, JSON-RPC id, ms left until its deadline, -1 when it has none.
local function pending(session, deadlines, members, stream, now)
  local found = {}

  local function add(call, id)
    local deadline = redis.call('ZSCORE', deadlines, members .. call)
    table.insert(found, call)
    table.insert(found, id)
    table.insert(found, deadline and math.max(deadline - now, 0) or -1)
  end

  if stream ~= '' and redis.call('HEXISTS', session .. '.' .. stream, 'batch') == 0 then
    local record = redis.call('HGET', session, 'p:' .. stream)
    if record then
      local _, _, rest = split(record)
      add(stream, id_of(rest))
    end
    return found
  end
  if redis.call('HLEN', session) <= 5 + redis.call('HEXISTS', session, 'context') then return found end
  local fields = redis.call('HGETALL', session)
  for i = 1, #fields, 2 do
    local call = string.match(fields[i], '^p:(.*)$')
    if call then
      local _, place, rest = split(fields[i + 1])
      if place == stream then add(call, id_of(rest)) end
    end
  end
  return found
end
