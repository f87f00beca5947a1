-- written: audit events are in Postgres; their entries leave.
-- Guarantee: the events of an entry are no longer counted as unwritten once it has left, and are counted off once, however
-- many writers say that they have written it.
-- KEYS: 1 audit, 2 unwritten
-- ARGV: 1 group; for each entry: its id, its number of events; last: repeated
local events, ids = 0, {}
for a = 2, #ARGV - 1, 2 do
  if redis.call('XDEL', KEYS[1], ARGV[a]) == 1 then events = events + ARGV[a + 1] end
  ids[#ids + 1] = ARGV[a]
end
redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
-- Where nothing is left, nothing is counted, whatever was lost before.
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2])
elseif events > 0 then
  redis.call('DECRBY', KEYS[2], events)
end
return events
