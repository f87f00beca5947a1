--@include record
--@include quota
--@include finish
-- takeback: messages that were accepted here, and that replicas did not have in time, are not accepted after all.
-- Guarantee: a request that was neither begun nor answered leaves without a trace, its session with it if it was to open
-- one; no audit event tells of it, no quota counts it. One that was begun or answered is left as it is: replicas have
-- what is begun.
-- KEYS: 1 deadlines, 2 calls; for the names of a tenant's keys see accept
-- ARGV: 1 what the lane's keys begin with, 2 control channel; for each message: tenant, session id, call, 1 if it opens its
--       session, 1 if it is a request; last: repeated
-- Returns for each 1 if it is not accepted, or nobody can tell (a notification, or after a lost connection); 0 if it is.
local repeated = ARGV[#ARGV] == '1'
local taken, by_base = {}, {}

local function take_back(tenant, sid, call, opens, request)
  if request ~= '1' then return 1 end
  local base = ARGV[1] .. 't:' .. tenant .. ':'
  local session = base .. 's:' .. sid
  local state = redis.call('HMGET', session, 'p:' .. call, 'o:' .. call)
  if not state[1] then return repeated and 1 or 0 end
  if state[2] then return 0 end
  local entry, place, rest = split(state[1])
  local mark = string.byte(rest, -1)
  if mark < 33 and mark ~= 10 then -- metered: it is open no longer, see count
    if mark ~= 32 then redis.call('ZREM', base .. 'key:' .. string.match(rest, '\n%["(.-)"'), call) end
    if mark ~= 13 then redis.call('ZREM', base .. 'quota:open', call) end
  end
  if opens == '1' then
    redis.call('DEL', session, session .. ':out', session .. ':subs')
    redis.call('ZREM', base .. 'sessions', sid)
  else
    redis.call('HDEL', session, 'p:' .. call)
  end
  withdraw(KEYS[2], base, entry)
  call_off(ARGV[2], call, sid)
  by_base[base] = by_base[base] or {}
  table.insert(by_base[base], tenant .. ':' .. sid .. ':' .. call)
  return 1
end

for a = 3, #ARGV - 1, 5 do
  table.insert(taken, take_back(unpack(ARGV, a, a + 4)))
end
for base, members in pairs(by_base) do forget(KEYS[1], members, ARGV[1], base) end
return taken
