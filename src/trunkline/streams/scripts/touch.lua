--@include renew
--@include record
--@include route
--@include pending
-- touch: keep a session alive while a stream of it is open, and learn how far the stream's outbox has come and what is
-- pending there.
-- KEYS: 1 session, 2 record of the stream, 3 sessions of the tenant, 4 deadlines
-- ARGV: 1 session id, 2 stream ('' for the session's own, see route), 3 generation of the stream, 4 lifetime in ms,
--       5 members' beginning ("<tenant>:<session>:"), 6 repeated
-- Returns {newest offset, pending requests}; -1 when the session has ended, -2 when another stream has replaced this.
-- Only a stateless request has a record without "fresh".
local fresh = redis.call('HGET', KEYS[1], 'fresh')
if not fresh and ARGV[2] ~= '' then return -1 end
local named = ARGV[2] ~= '' and ARGV[2] or not fresh and ARGV[1] or ''
local state = redis.call('HMGET', KEYS[2], 'holder', 'box')
if string.match(state[1] or '1', '^%d+') ~= ARGV[3] then return state[1] and -2 or -1 end
local now = clock()
local found = pending(KEYS[1], KEYS[4], ARGV[5], named, now)
local box = state[2] or #found > 0 and nothing_sent or answered(KEYS[2] .. ':out', named)
if not box then return -1 end
if fresh then
  renew(KEYS[1], KEYS[3], ARGV[1], ARGV[4], now)
  if ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
end
return {tonumber(string.match(box, '^%d+')), found}
