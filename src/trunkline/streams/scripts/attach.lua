-- attach: move a session's stream to this pod, from the message after the last one that the client has seen.
-- Guarantee: what is appended later goes to this pod alone, what was appended earlier is in the answer; nothing
-- falls between. The stream that held the session before is told that it was replaced.
-- KEYS: 1 session, 2 outbox, 3 pending, 4 sessions of the tenant
-- ARGV: 1 session id, 2 principal, 3 pod, 4 last offset seen, 5 channels' beginning, 6 lifetime in ms, 7 repeated
-- Returns {generation, messages}, or 0: no such session of this principal, or messages are missing.
local state = redis.call('HMGET', KEYS[1], 'principal', 'pod', 'generation', 'offset')
if state[1] ~= ARGV[2] then return 0 end
local last, newest = tonumber(ARGV[4]), tonumber(state[4])
if last > newest then return 0 end
local missed = {}
if last < newest then
  missed = redis.call('XRANGE', KEYS[2], string.format('%.0f', last + 1), '+')
  local first = missed[1] and tonumber(string.match(missed[1][1], '^%d+'))
  if first ~= last + 1 then return 0 end
end
if state[2] then
  redis.call('PUBLISH', ARGV[5] .. state[2], table.concat({ARGV[1], state[3], '0', 'replaced'}, '\n'))
end
local generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HSET', KEYS[1], 'pod', ARGV[3])
local time = redis.call('TIME')
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('PEXPIRE', KEYS[3], ARGV[6])
redis.call('ZADD', KEYS[4], 'XX', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[6], ARGV[1])
redis.call('PEXPIRE', KEYS[4], ARGV[6])
return {generation, missed}
