--@include clock
--@include append
--@include record
--@include route
--@include quota
--@include finish
-- publish: answers of calls of one lane.
-- Guarantee: the first answer of a pending call is appended to the outbox and audited, and the call is forgotten, in
-- one step; any further answer of it, or one after a cancellation or its deadline, changes nothing. Nor does one of an
-- attempt that was given up: a call that is run again has another lane entry, and its record names it.
-- The first write is one that a full Redis refuses, so a refusal leaves the call pending and its answer to be repeated.
-- KEYS: 1 deadlines, 2 calls; for the names of a tenant's keys see accept
-- ARGV: 1 worker, 2 channels' beginning, 3 outbox messages, 4 outbox bytes, 5 outbox lifetime in ms, 6 what the lane's
--       keys begin with; for each answer: tenant, session id, call, lane entry, message, '' for a notification that ended, new context of the
--       session, '' for none, how it ended (see finish); last: repeated
-- Returns for each the offset of the answer, or 0 when it is not wanted.
local now = clock()
local limits = outbox_limits(ARGV[3], ARGV[4], ARGV[5])
local offsets, entries, finished = {}, {}, {}

local function publish(tenant, sid, call, entry, message, context, how)
  table.insert(entries, entry)
  if message == '' then return 0 end
  local base = ARGV[6] .. 't:' .. tenant .. ':'
  local session = base .. 's:' .. sid
  local state = redis.call('HMGET', session, 'p:' .. call, 'box', 'holder')
  if not state[1] then return 0 end
  local attempt, place, rest = split(state[1])
  if attempt ~= entry then return 0 end
  local stream, name, box, holder, bare = route(session, sid, place, state[2], state[3])
  local offset = append(stream, name, ARGV[2], box, holder, limits, now, call, message, bare)
  if context ~= '' then redis.call('HSET', session, 'context', context) end
  local member = tenant .. ':' .. sid .. ':' .. call
  finish(session, call, place, member, rest, now, how, ARGV[1])
  finished[base] = finished[base] or {}
  table.insert(finished[base], member)
  return offset
end

for a = 7, #ARGV - 1, 7 do
  table.insert(offsets, publish(unpack(ARGV, a, a + 6)))
end
send_all()
audit(ARGV[6])
for base, members in pairs(finished) do forget(KEYS[1], members, ARGV[6], base) end
redis.call('XACK', KEYS[2], 'workers', unpack(entries))
redis.call('XDEL', KEYS[2], unpack(entries))
return offsets
