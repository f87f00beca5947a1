--@include finish
-- cancel: the client takes back a request, named by its JSON-RPC id.
-- Guarantee: no answer to it is sent afterwards; what no worker has claimed yet never runs.
-- KEYS: 1 session, 2 pending, 3 deadlines, 4 calls, 5 audit, 6 in flight
-- ARGV: 1 principal, 2 JSON-RPC id as JSON, 3 members' beginning ("<tenant>:<session>:"), 4 repeated
-- Returns the ids of the cancelled calls, or 0: no such session of this principal.
if redis.call('HGET', KEYS[1], 'principal') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local cancelled = {}
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local entry, id = string.match(all[i + 1], '^(.-)\n.-\n(.-)\n')
  if id == ARGV[2] then
    finish(KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], ARGV[3] .. all[i], all[i], now, 'cancelled', '')
    redis.call('XDEL', KEYS[4], entry)
    table.insert(cancelled, all[i])
  end
end
return cancelled
