--@include finish
-- close: end a session; its stream is told, its unanswered requests are forgotten.
-- KEYS: 1 session, 2 outbox, 3 pending, 4 deadlines, 5 calls, 6 audit, 7 in flight, 8 sessions of the tenant
-- ARGV: 1 session id, 2 principal, 3 members' beginning ("<tenant>:<session>:"), 4 channels' beginning, 5 repeated
-- Returns the ids of the calls that nobody will answer, or 0: no such session of this principal.
local state = redis.call('HMGET', KEYS[1], 'principal', 'pod', 'generation')
if state[1] ~= ARGV[2] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local abandoned = redis.call('HKEYS', KEYS[3])
for _, call in ipairs(abandoned) do
  local entry = finish(KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], ARGV[3] .. call, call, now, 'abandoned', '')
  redis.call('XDEL', KEYS[5], entry)
end
if state[2] then
  redis.call('PUBLISH', ARGV[4] .. state[2], table.concat({ARGV[1], state[3], '0', 'closed'}, '\n'))
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[8], ARGV[1])
return abandoned
