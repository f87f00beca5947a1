--@include clock
--@include append
--@include record
--@include route
-- notify: a message to the client while a call is under way, such as progress, a log line or a request of the tool.
-- Guarantee: it precedes the call's answer; once the call is answered, cancelled or given to another worker, nothing more
-- of it is sent. Repeated, it is sent once: each message of an attempt carries its number. A request is sent if and only if
-- it is recorded that its worker waits for the response.
-- KEYS: 1 session, 2 deadlines, 3 questions of the call
-- ARGV: 1 session id, 2 call, 3 attempt and number of the message within it, 4 deadline member, 5 message,
--       6 new time for the call in ms from now, 0 for none, 7 latest deadline in epoch ms, 8 channels' beginning,
--       9 outbox messages, 10 outbox bytes, 11 outbox lifetime in ms, 12 lane entry, 13 the worker that waits for a
--       response, '' for none, 14 ms for which it is remembered that it does,
--       15 lifetime of a stream's record in ms, 16 repeated
-- Returns the offset, or 0 when it is not wanted any more.
local state = redis.call('HMGET', KEYS[1], 'p:' .. ARGV[2], 'box', 'holder')
if not state[1] then return 0 end
local entry, place = split(state[1])
if entry ~= ARGV[12] then return 0 end
local stream, name, box, holder = route(KEYS[1], ARGV[1], place, state[2], state[3])
local tag = ARGV[2] .. '.' .. ARGV[3]
if ARGV[16] == '1' then
  for _, entry in ipairs(redis.call('XREVRANGE', stream .. ':out', '+', '-')) do
    if entry[2][4] == tag then return tonumber(string.match(entry[1], '^%d+')) end
  end
end
local now = clock()
if ARGV[6] ~= '0' then
  redis.call('ZADD', KEYS[2], 'XX', 'GT', string.format('%d', math.min(now + ARGV[6], tonumber(ARGV[7]))), ARGV[4])
end
if ARGV[13] ~= '' then
  redis.call('HSET', KEYS[3], ARGV[3], ARGV[13])
  redis.call('PEXPIRE', KEYS[3], ARGV[14])
end
if string.find(place, ' ', 1, true) then make(KEYS[1], ARGV[2], state[1], stream, box, holder, ARGV[15]) end
local limits = outbox_limits(ARGV[9], ARGV[10], ARGV[11])
local offset = append(stream, name, ARGV[8], box, holder, limits, now, tag, ARGV[5])
send_all()
return offset
