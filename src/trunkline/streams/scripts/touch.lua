--@include renew
-- touch: keep a session alive while its stream is open, and learn how far its outbox has come.
-- KEYS: 1 session, 2 sessions of the tenant
-- ARGV: 1 session id, 2 generation of the stream, 3 lifetime in ms, 4 repeated
-- Returns the newest offset; -1 when the session has ended, -2 when another stream has replaced this one.
local state = redis.call('HMGET', KEYS[1], 'holder', 'box')
if not state[1] then return -1 end
if string.match(state[1], '^%d+') ~= ARGV[2] then return -2 end
renew(KEYS[1], KEYS[2], ARGV[1], ARGV[3], clock())
return tonumber(string.match(state[2], '^%d+'))
