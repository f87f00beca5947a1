-- route: the stream that the messages of a call go to.
-- place: where its answer is awaited: '' on its session's own stream; "<call>" on that of the POST which began with this
-- call; "<call> <pod>" the same, while that stream has no record, since nobody but that pod has held it and nothing was sent
-- on it; "-" on the own stream of a stateless request.
-- box, holder: those of the session's own stream
-- Returns the key of the stream's record, the stream's name, its box and its holder; no box where Redis has lost it; and
-- whether an answer there needs no record: it is the last message, and its outbox is all that is left of the stream.
local nothing_sent = '0 1 0 0'
local function route(session, sid, place, box, holder)
  if place == '' then return session, sid, box, holder, false end
  if place == '-' then return session, sid, holder and (box or nothing_sent), holder, true end
  local stream, pod = string.match(place, '^(%w+) ?(.*)$')
  local key, name = session .. '.' .. stream, sid .. '.' .. stream
  if pod ~= '' then return key, name, nothing_sent, '1 ' .. pod, true end
  local state = redis.call('HMGET', key, 'box', 'holder')
  return key, name, state[1], state[2], false
end

-- make: the stream of a POST has a record from now on; its call's record says so.
local function make(session, call, record, stream, box, holder, lifetime)
  local entry, place, rest = split(record)
  redis.call('HSET', stream, 'holder', holder, 'box', box)
  redis.call('PEXPIRE', stream, lifetime)
  redis.call('HSET', session, 'p:' .. call, entry .. '\n' .. string.match(place, '^%w+') .. '\n' .. rest)
end

-- answered: the box of a stream that has no record any more or never had one: its answer is there, whose tag is the call
-- that the stream is named by. Nil where it is not.
local function answered(outbox, call)
  local last = redis.call('XREVRANGE', outbox, '+', '-', 'COUNT', 1)[1]
  if not last or last[2][4] ~= call then return nil end
  local offset = string.match(last[1], '^%d+')
  return string.format('%s %s %d %d', offset, offset, #last[2][2], redis.call('PEXPIRETIME', outbox))
end
