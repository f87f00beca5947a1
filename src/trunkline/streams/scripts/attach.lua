--@include renew
--@include pending
--@include page
-- attach: move a session's stream to this pod, from the message after the last one that the client has seen.
-- Guarantee: what is appended or accepted later is told to this pod alone; what was before is in the outbox, up to the
-- newest offset in the answer; nothing falls between. The stream that held the session before is told that it was
-- replaced.
-- KEYS: 1 session, 2 outbox, 3 sessions of the tenant, 4 deadlines
-- ARGV: 1 session id, 2 principal, 3 pod, 4 last offset seen, 5 channels' beginning, 6 lifetime in ms, 7 members'
--       beginning ("<tenant>:<session>:"), 8 bytes of a page, 9 messages of a page, 10 repeated
-- Returns {generation, newest offset, first page of the messages, pending requests}, or 0: no such session of this
-- principal, or messages are missing.
local state = redis.call('HMGET', KEYS[1], 'principal', 'holder', 'box')
if state[1] ~= ARGV[2] then return 0 end
local last, newest = tonumber(ARGV[4]), tonumber(string.match(state[3], '^%d+'))
if last > newest then return 0 end
local missed = {}
if last < newest then
  missed = page(KEYS[2], last, ARGV[8], ARGV[9])
  local first = missed[1] and tonumber(string.match(missed[1][1], '^%d+'))
  if first ~= last + 1 then return 0 end
end
local now = clock()
local generation, pod = string.match(state[2], '(%d+) (.*)')
redis.call('HSET', KEYS[1], 'holder', (generation + 1) .. ' ' .. ARGV[3]) -- a full Redis refuses it, and nobody is told
redis.call('PUBLISH', ARGV[5] .. pod, ARGV[1] .. '\n' .. generation .. '\n0\nreplaced\n')
generation = generation + 1
renew(KEYS[1], KEYS[3], ARGV[1], ARGV[6], now)
return {generation, newest, missed, pending(KEYS[1], KEYS[4], ARGV[7], now)}
