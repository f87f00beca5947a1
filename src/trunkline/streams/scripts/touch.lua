--@include renew
--@include pending
-- touch: keep a session alive while its stream is open, and learn how far its outbox has come and what is pending.
-- KEYS: 1 session, 2 sessions of the tenant, 3 deadlines
-- ARGV: 1 session id, 2 generation of the stream, 3 lifetime in ms, 4 members' beginning ("<tenant>:<session>:"),
--       5 repeated
-- Returns {newest offset, pending requests}; -1 when the session has ended, -2 when another stream has replaced this.
local state = redis.call('HMGET', KEYS[1], 'holder', 'box')
if not state[1] then return -1 end
if string.match(state[1], '^%d+') ~= ARGV[2] then return -2 end
local now = clock()
renew(KEYS[1], KEYS[2], ARGV[1], ARGV[3], now)
return {tonumber(string.match(state[2], '^%d+')), pending(KEYS[1], KEYS[3], ARGV[4], now)}
