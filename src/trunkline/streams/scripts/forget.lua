-- forget: streams that were delivered whole, in an answer that nobody can resume.
-- Guarantee: the record of a stateless request stays while its call is pending, whatever its pod believes.
-- ARGV: 1 what the lane's keys begin with; for each stream: tenant, name; last: repeated
local keys = {}
for a = 2, #ARGV - 1, 2 do
  local record = ARGV[1] .. 't:' .. ARGV[a] .. ':s:' .. ARGV[a + 1]
  -- Five fields are its own, any other is of a call; the record of a POST within a session has two.
  if redis.call('HLEN', record) <= 5 then
    table.insert(keys, record)
    table.insert(keys, record .. ':out')
  end
end
return #keys > 0 and redis.call('UNLINK', unpack(keys)) or 0
