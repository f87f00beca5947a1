-- touch: keep a session alive while its stream is open, and learn how far its outbox has come.
-- KEYS: 1 session, 2 pending, 3 sessions of the tenant
-- ARGV: 1 session id, 2 generation of the stream, 3 lifetime in ms, 4 repeated
-- Returns the newest offset; -1 when the session has ended, -2 when another stream has replaced this one.
local state = redis.call('HMGET', KEYS[1], 'generation', 'offset')
if not state[1] then return -1 end
if state[1] ~= ARGV[2] then return -2 end
local time = redis.call('TIME')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return tonumber(state[2])
