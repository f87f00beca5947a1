--@include clock
--@include finish
-- cancel: the client takes back a request, named by its JSON-RPC id.
-- Guarantee: no answer to it is sent afterwards; what no worker has claimed yet never runs.
-- KEYS: 1 session, 2 deadlines, 3 calls, 4 audit
-- ARGV: 1 principal, 2 JSON-RPC id as JSON, 3 members' beginning ("<tenant>:<session>:"), 4 what the lane's keys begin
--       with, 5 what the tenant's begin with, 6 repeated
-- Returns the ids of the cancelled calls, or 0: no such session of this principal.
if redis.call('HGET', KEYS[1], 'principal') ~= ARGV[1] then return 0 end
local now, cancelled, members = clock(), {}, {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local call = string.match(fields[i], '^p:(.*)$')
  local id = call and string.match(fields[i + 1], '^.-\n.-\n(.-)\n')
  if id == ARGV[2] then
    local entry = finish(KEYS[1], KEYS[4], call, fields[i + 1], now, 'cancelled', '')
    withdraw(KEYS[3], ARGV[5], entry)
    table.insert(cancelled, call)
    table.insert(members, ARGV[3] .. call)
  end
end
if #members > 0 then forget(KEYS[2], members, ARGV[4], ARGV[5]) end
return cancelled
