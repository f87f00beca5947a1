--@include renew
--@include record
--@include pending
-- touch: keep a session alive while a stream of it is open, and learn how far the stream's outbox has come and what is
-- pending there.
-- KEYS: 1 session, 2 record of the stream, 3 sessions of the tenant, 4 deadlines
-- ARGV: 1 session id, 2 stream ('' for the session's own, see route), 3 generation of the stream, 4 lifetime in ms,
--       5 members' beginning ("<tenant>:<session>:"), 6 repeated
-- Returns {newest offset, pending requests}; -1 when the session has ended, -2 when another stream has replaced this.
local fresh = redis.call('HGET', KEYS[1], 'fresh')
local state = redis.call('HMGET', KEYS[2], 'holder', 'box')
if not fresh or not state[1] then return -1 end
if string.match(state[1], '^%d+') ~= ARGV[3] then return -2 end
local now = clock()
if fresh == '' then -- the record of a stateless request, which is no session of its tenant
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
else
  renew(KEYS[1], KEYS[3], ARGV[1], ARGV[4], now)
  if ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
end
return {tonumber(string.match(state[2], '^%d+')), pending(KEYS[1], KEYS[4], ARGV[5], ARGV[2], now)}
