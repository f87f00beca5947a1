-- again: a call goes back to its lane as a new entry, for any worker; the attempt with the old entry is given up.
-- record: the call's, nil for a notification
-- lost: names of the workers that were lost with it, '' for none
local function again(calls, deadlines, base, entry, fields, sid, call, record, attempt, lost)
  local head = fields.h
  if record then
    -- Progress may have moved the deadline since the entry was made.
    local deadline = redis.call('ZSCORE', deadlines, string.match(head, '^.-\n.-\n(.-)\n') .. ':' .. sid .. ':' .. call)
    if deadline then head = string.gsub(head, '%d+$', string.format('%d', deadline)) end
  end
  local anew = redis.call('XADD', calls, '*', 'h', head, 'b', fields.b, 'a', fields.a, 'x', fields.x,
    't', fields.t or 'sse', 'n', attempt, 'k', lost)
  if record then
    local session = base .. 's:' .. sid
    redis.call('HSET', session, 'p:' .. call, anew .. string.match(record, '\n.*'))
    redis.call('HDEL', session, 'o:' .. call)
  end
  redis.call('XACK', calls, 'workers', entry)
  redis.call('XDEL', calls, entry)
end

-- read: a lane entry's fields, and from its head version, call, tenant, session id; nil when it has left the lane.
local function read(calls, entry)
  local found = redis.call('XRANGE', calls, entry, entry)[1]
  if not found then return nil end
  local fields = {}
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  return fields, string.match(fields.h, '^(.-)\n(.-)\n(.-)\n(.-)\n')
end
