-- append: put a message into a stream's outbox, and its live copy among those that go to the pod that holds the stream.
-- Guarantee: offsets of a stream are contiguous from 1; what exceeds the bounds leaves from the oldest end. Live copies leave
-- with `send`, those for one pod together and in order: a PUBLISH costs Redis as much as a small message in it.
-- record: the key of the stream's record, which the outbox's name begins with; name: the stream's
-- Entry: id "<offset>-<epoch ms>", field m the message, field c its tag: the call that it answers, or one with a dot in it
-- for what is sent while a call runs or belongs to none.
-- A live copy is five lines; in front of those that leave together is when: epoch ms.
-- box: field of the record: newest offset, oldest offset kept, bytes kept, epoch ms until which they are kept
-- holder: field of the record: generation of the stream and the pod that holds it
-- bare: whether this is the last message, whose stream needs no record
-- limits: 1 messages, 2 bytes, 3 lifetime in ms, made once by outbox_limits
-- Returns the offset and the new box; 0 where Redis has lost the record.
local copies, most_copied, copied_at = {}, 65536, '0'

local function send(channel)
  local waiting = copies[channel]
  if waiting then
    redis.call('PUBLISH', channel, copied_at .. '\n' .. table.concat(waiting, '\n'))
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
  local n = #waiting
  waiting[n + 1], waiting[n + 2], waiting[n + 3], waiting[n + 4], waiting[n + 5] = name, generation, offset, tag, body
  waiting.size = waiting.size + #body
  if waiting.size > most_copied then send(channel) end
end

local function outbox_limits(messages, bytes, lifetime)
  return {tonumber(messages), tonumber(bytes), tonumber(lifetime)}
end

local function append(record, name, pods, box, holder, limits, now, tag, body, bare)
  if not box then return 0 end
  local outbox = record .. ':out'
  local newest, first, bytes, kept = string.match(box, '^(%d+) (%d+) (%d+) (%d+)$')
  local number = newest + 1
  local offset = string.format('%d', number)
  bytes = bytes + #body
  local left = kept - now
  if left <= 0 then first, bytes = offset, #body end -- the outbox has expired
  copied_at = string.format('%d', now)
  redis.call('XADD', outbox, offset .. '-' .. copied_at, 'm', body, 'c', tag)

  -- The expiry is renewed when it has come near, not with every message; then what is too old leaves, too.
  local messages, most_bytes, lifetime = unpack(limits)
  local renew = bare or left < lifetime
  if renew or number - first >= messages or bytes > most_bytes then
    first = tonumber(first)
    while first < number do
      local oldest = redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1)[1]
      if not oldest then break end
      local sent = tonumber(string.match(oldest[1], '%d+$'))
      if number - first < messages and bytes <= most_bytes and now - sent < lifetime then break end
      redis.call('XDEL', outbox, oldest[1])
      first, bytes = first + 1, bytes - #oldest[2][2]
    end
    if renew then
      kept = string.format('%d', now + lifetime * 1.25)
      redis.call('PEXPIREAT', outbox, kept)
    end
  end
  box = string.format('%s %s %d %s', offset, first, bytes, kept)
  if not bare then redis.call('HSET', record, 'box', box) end
  local space = string.find(holder, ' ', 1, true)
  copy(pods .. string.sub(holder, space + 1), name, string.sub(holder, 1, space - 1), offset, tag, body)
  return number, box
end
