-- retire: forgets the consumers of a group that are long gone.
-- Guarantee: none that holds anything; one that was only away is made anew by its next read, and misses nothing.
-- KEYS: 1 stream   ARGV: 1 group, 2 ms without a sign of it, 3 repeated
-- Returns how many were forgotten.
local forgotten = 0
for _, told in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #told, 2 do consumer[told[i]] = told[i + 1] end
  if consumer.pending == 0 and consumer.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    forgotten = forgotten + 1
  end
end
return forgotten
