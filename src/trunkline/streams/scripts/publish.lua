--@include clock
--@include append
--@include finish
-- publish: answers of calls of one lane.
-- Guarantee: the first answer of a pending call is appended to the outbox and audited, and the call is forgotten, in
-- one step; any further answer of it, or one after a cancellation or its deadline, changes nothing.
-- The first write is one that a full Redis refuses, so a refusal leaves the call pending and its answer to be repeated.
-- KEYS: 1 deadlines, 2 calls, 3 audit; for each answer: session, outbox, usage
-- ARGV: 1 worker, 2 channels' beginning, 3 outbox messages, 4 outbox bytes, 5 outbox lifetime in ms; for each answer:
--       session id, call, deadline member, lane entry, message, '' for a notification that ended, new context of the
--       session, '' for none, outcome; last: repeated
-- Returns for each the offset of the answer, or 0 when it is not wanted.
local now = clock()
local limits = {ARGV[3], ARGV[4], ARGV[5]}
local offsets, entries, finished = {}, {}, {}

local function publish(session, outbox, usage, sid, call, member, message, context, outcome)
  if message == '' then return 0 end
  local state = redis.call('HMGET', session, 'p:' .. call, 'box', 'holder')
  if not state[1] then return 0 end
  local offset = append(session, outbox, sid, ARGV[2], state[2], state[3], limits, now, call, message)
  finish(session, KEYS[3], call, state[1], now, outcome, ARGV[1])
  if context ~= '' then redis.call('HSET', session, 'context', context) end
  finished[usage] = finished[usage] or {}
  table.insert(finished[usage], member)
  return offset
end

for n = 0, (#KEYS - 3) / 3 - 1 do
  local k, a = 3 + n * 3, 5 + n * 7
  offsets[n + 1] = publish(KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 5],
    ARGV[a + 6], ARGV[a + 7])
  entries[n + 1] = ARGV[a + 4]
end
for usage, members in pairs(finished) do forget(KEYS[1], members, usage, #members) end
redis.call('XACK', KEYS[2], 'workers', unpack(entries))
redis.call('XDEL', KEYS[2], unpack(entries))
return offsets
