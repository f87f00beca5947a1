-- append: put a message into a stream's outbox, and its live copy among those that go to the pod that holds the stream.
-- Guarantee: offsets of a stream are contiguous from 1; what exceeds the bounds leaves from the oldest end. Live copies leave
-- with `send`, those for one pod together and in order: a PUBLISH costs Redis as much as a small message in it.
-- record: the key of the stream's record, which the outbox's name begins with; name: the stream's
-- Entry: id "<offset>-<epoch ms>", field m the message, field c its tag: the call that it answers, or one with a dot in it
-- for what is sent while a call runs or belongs to none.
-- box: field of the record: newest offset, oldest offset kept, bytes kept, epoch ms until which they are kept
-- holder: field of the record: generation of the stream and the pod that holds it
-- limits: 1 messages, 2 bytes, 3 lifetime in ms
-- Returns the offset and the new box; 0 where Redis has lost the record.
local copies, most_copied = {}, 65536

local function send(channel)
  local waiting = copies[channel]
  if waiting then
    redis.call('PUBLISH', channel, table.concat(waiting, '\n'))
    copies[channel] = nil
  end
end

local function send_all()
  for channel in pairs(copies) do send(channel) end
end

local function copy(channel, name, generation, offset, tag, body)
  local waiting = copies[channel]
  if not waiting then
    waiting = {size = 0}
    copies[channel] = waiting
  end
  waiting[#waiting + 1] = name .. '\n' .. generation .. '\n' .. offset .. '\n' .. tag .. '\n' .. body
  waiting.size = waiting.size + #body
  if waiting.size > most_copied then send(channel) end
end

local function append(record, name, pods, box, holder, limits, now, tag, body)
  if not box then return 0 end
  local outbox = record .. ':out'
  local newest, first, bytes, kept = string.match(box, '(%d+) (%d+) (%d+) (%d+)')
  local offset, lifetime = newest + 1, tonumber(limits[3])
  first, bytes, kept = tonumber(first), bytes + #body, tonumber(kept)
  if now >= kept then first, bytes = offset, #body end -- the outbox has expired
  redis.call('XADD', outbox, string.format('%d-%d', offset, now), 'm', body, 'c', tag)

  -- The expiry is renewed when it has come near, not with every message; then what is too old leaves, too.
  local renew = kept - now < lifetime
  if renew or offset - first >= tonumber(limits[1]) or bytes > tonumber(limits[2]) then
    while first < offset do
      local oldest = redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1)[1]
      if not oldest then break end
      local sent = tonumber(string.match(oldest[1], '%d+$'))
      if offset - first < tonumber(limits[1]) and bytes <= tonumber(limits[2]) and now - sent < lifetime then break end
      redis.call('XDEL', outbox, oldest[1])
      first, bytes = first + 1, bytes - #oldest[2][2]
    end
    if renew then
      kept = now + lifetime * 1.25
      redis.call('PEXPIREAT', outbox, string.format('%d', kept))
    end
  end
  box = string.format('%d %d %d %d', offset, first, bytes, kept)
  redis.call('HSET', record, 'box', box)
  local generation, pod = string.match(holder, '(%d+) (.*)')
  copy(pods .. pod, name, generation, offset, tag, body)
  return offset, box
end
