-- page: what an outbox holds after an offset, as much of it as a stream is handed at once.
-- Guarantee: in order, at least one message if there is any; further ones only while all of them, each as an event (at
-- most 100 bytes more than its message), are within the bounds.
local function page(outbox, after, bytes, messages)
  local found, size, step = {}, 0, nil
  repeat
    step = redis.call('XRANGE', outbox, string.format('%d', after + 1), '+', 'COUNT', 16)
    for _, entry in ipairs(step) do
      size = size + #entry[2][2] + 100
      if #found > 0 and (size > tonumber(bytes) or #found >= tonumber(messages)) then return found end
      table.insert(found, entry)
      after = tonumber(string.match(entry[1], '^%d+'))
    end
  until #step < 16
  return found
end
