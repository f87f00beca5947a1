--@include clock
--@include append
-- notify: a message to the client while a call is under way, such as progress or a log line.
-- Guarantee: it precedes the call's answer; once the call is answered, cancelled or given to another worker, nothing more
-- of it is sent. Repeated, it is sent once: each message of an attempt carries its number.
-- KEYS: 1 session, 2 outbox, 3 deadlines
-- ARGV: 1 session id, 2 call, 3 attempt and number of the message within it, 4 deadline member, 5 message,
--       6 new time for the call in ms from now, 0 for none, 7 latest deadline in epoch ms, 8 channels' beginning,
--       9 outbox messages, 10 outbox bytes, 11 outbox lifetime in ms, 12 lane entry, 13 repeated
-- Returns the offset, or 0 when it is not wanted any more.
local state = redis.call('HMGET', KEYS[1], 'p:' .. ARGV[2], 'box', 'holder')
if not state[1] or string.sub(state[1], 1, #ARGV[12] + 1) ~= ARGV[12] .. '\n' then return 0 end
local tag = ARGV[2] .. '.' .. ARGV[3]
if ARGV[13] == '1' then
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-')) do
    if entry[2][4] == tag then return tonumber(string.match(entry[1], '^%d+')) end
  end
end
local now = clock()
if ARGV[6] ~= '0' then
  redis.call('ZADD', KEYS[3], 'XX', 'GT', string.format('%d', math.min(now + ARGV[6], tonumber(ARGV[7]))), ARGV[4])
end
return append(KEYS[1], KEYS[2], ARGV[1], ARGV[8], state[2], state[3], {ARGV[9], ARGV[10], ARGV[11]}, now, tag, ARGV[5])
