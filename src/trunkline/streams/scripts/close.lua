--@include clock
--@include record
--@include route
--@include quota
--@include finish
-- close: end a session; its streams are told, its unanswered requests are forgotten, their workers are told.
-- Repeated, it finds nothing left to do.
-- KEYS: 1 session, 2 outbox, 3 deadlines, 4 calls, 5 sessions of the tenant
-- ARGV: 1 session id, 2 owner, 3 members' beginning ("<tenant>:<session>:"), 4 channels' beginning, 5 what the
--       lane's keys begin with, 6 what the tenant's begin with, 7 control channel, 8 repeated
-- Returns the ids of the calls that nobody will answer, or 0: no such session of this owner.
local state = redis.call('HMGET', KEYS[1], 'principal', 'holder')
if not state[1] and ARGV[8] == '1' then return {} end
if state[1] ~= ARGV[2] then return 0 end
local now, abandoned, members = clock(), {}, {}

local function tell(name, holder)
  local generation, pod = string.match(holder, '(%d+) (.*)')
  redis.call('PUBLISH', ARGV[4] .. pod, '0\n' .. name .. '\n' .. generation .. '\n0\nclosed\n')
end

local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local call = string.match(fields[i], '^p:(.*)$')
  if call then
    local entry, place, rest = split(fields[i + 1])
    finish(KEYS[1], call, place, ARGV[3] .. call, rest, now, 'abandoned\n0\n0', '')
    withdraw(KEYS[4], ARGV[6], entry)
    call_off(ARGV[7], call, ARGV[1])
    table.insert(abandoned, call)
    table.insert(members, ARGV[3] .. call)
    if place ~= '' then
      local record, name, _, holder = route(KEYS[1], ARGV[1], place)
      if holder then tell(name, holder) end
      redis.call('DEL', record, record .. ':out')
    end
  end
end
audit(ARGV[5])
-- When all are withdrawn: what is forgotten makes room for the tenant's surplus.
if #members > 0 then forget(KEYS[3], members, ARGV[5], ARGV[6]) end
tell(ARGV[1], state[2])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[1] .. ':subs')
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('SREM', ARGV[6] .. 'subscribers', ARGV[1])
return abandoned
