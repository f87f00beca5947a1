--@include begin
-- open: a new session whose own stream this pod holds.
-- Guarantee: that of begin; repeated, it opens the same session.
-- KEYS: 1 session, 2 sessions of the tenant, 3 usage
-- ARGV: 1 session id, 2 owner, 3 pod, 4 lifetime in ms, 5 most sessions (see begin), 6 caller, 7 us between sessions at the limit,
--       8 us of burst, 9 repeated
-- Returns 0, or {reason, ms after which to try again}: sessions, key sessions, rate.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
return begin(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], '1 ' .. ARGV[3], ARGV[6], ARGV[4], ARGV[5], ARGV[7], ARGV[8], us) or 0
