--@include clock
--@include finish
-- close: end a session; its stream is told, its unanswered requests are forgotten.
-- KEYS: 1 session, 2 outbox, 3 deadlines, 4 calls, 5 audit, 6 sessions of the tenant
-- ARGV: 1 session id, 2 principal, 3 members' beginning ("<tenant>:<session>:"), 4 channels' beginning, 5 what the
--       lane's keys begin with, 6 what the tenant's begin with, 7 repeated
-- Returns the ids of the calls that nobody will answer, or 0: no such session of this principal.
local state = redis.call('HMGET', KEYS[1], 'principal', 'holder')
if state[1] ~= ARGV[2] then return 0 end
local now, abandoned, members = clock(), {}, {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local call = string.match(fields[i], '^p:(.*)$')
  if call then
    local entry = finish(KEYS[1], KEYS[5], call, fields[i + 1], now, 'abandoned', '')
    withdraw(KEYS[4], ARGV[6], entry)
    table.insert(abandoned, call)
    table.insert(members, ARGV[3] .. call)
  end
end
-- When all are withdrawn: what is forgotten makes room for the tenant's surplus.
if #members > 0 then forget(KEYS[3], members, ARGV[5], ARGV[6]) end
local generation, pod = string.match(state[2], '(%d+) (.*)')
redis.call('PUBLISH', ARGV[4] .. pod, ARGV[1] .. '\n' .. generation .. '\n0\nclosed\n')
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[6], ARGV[1])
return abandoned
