-- snapshot: keep the newest version of a record.
-- Guarantee: an older version never replaces a newer one, in whatever order writers arrive.
-- KEYS: 1 snapshot   ARGV: 1 version, 2 value, 3 lifetime in ms
local known = tonumber(redis.call('HGET', KEYS[1], 'version'))
if known and known > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'value', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
