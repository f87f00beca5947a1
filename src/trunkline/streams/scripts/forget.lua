-- forget: streams that were delivered whole, in an answer that nobody can resume.
-- ARGV: 1 what the lane's keys begin with; for each stream: tenant, name; last: repeated
local keys = {}
for a = 2, #ARGV - 1, 2 do
  local record = ARGV[1] .. 't:' .. ARGV[a] .. ':s:' .. ARGV[a + 1]
  table.insert(keys, record)
  table.insert(keys, record .. ':out')
end
return redis.call('UNLINK', unpack(keys))
