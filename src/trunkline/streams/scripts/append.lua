-- append: put a message into a session's outbox and hand a live copy to the pod that holds its stream.
-- Guarantee: offsets of a session are contiguous from 1; what exceeds the bounds leaves from the oldest end.
-- Message fields: m the body, c the call it belongs to.
-- limits: 1 messages, 2 bytes, 3 lifetime in ms
local function append(session, outbox, sid, pods, limits, now, call, body)
  local holder = redis.call('HMGET', session, 'pod', 'generation')
  local offset = redis.call('HINCRBY', session, 'offset', 1)
  redis.call('XADD', outbox, string.format('%.0f-%.0f', offset, now), 'm', body, 'c', call)
  local length = redis.call('XLEN', outbox)
  local bytes = #body
  if length == 1 then
    redis.call('HSET', session, 'bytes', bytes)
    redis.call('PEXPIRE', outbox, limits[3])
  else
    bytes = redis.call('HINCRBY', session, 'bytes', bytes)
    if length > limits[1] or bytes > limits[2] or offset % 16 == 0 then
      while length > 1 do
        local oldest = redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1)[1]
        local sent = tonumber(string.match(oldest[1], '%-(%d+)$'))
        if length <= limits[1] and bytes <= limits[2] and now - sent < limits[3] then break end
        redis.call('XDEL', outbox, oldest[1])
        bytes = redis.call('HINCRBY', session, 'bytes', -#oldest[2][2])
        length = length - 1
      end
    end
    redis.call('PEXPIRE', outbox, limits[3])
  end
  if holder[1] then
    redis.call('PUBLISH', pods .. holder[1], table.concat({sid, holder[2], string.format('%.0f', offset), body}, '\n'))
  end
  return offset
end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
