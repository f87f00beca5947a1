-- revoke: remember from when a key is refused, and forget keys that have expired.
-- Guarantee: a revocation is only ever made earlier, never later or undone.
-- KEYS: 1 revoked   ARGV: 1 key id, 2 refused from, 3 expires at, 4 now (epoch seconds)
local known = redis.call('HGET', KEYS[1], ARGV[1])
local from = tonumber(known and string.match(known, '^%S+'))
if not from or tonumber(ARGV[2]) < from then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
end
if redis.call('HLEN', KEYS[1]) % 256 == 0 then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local expires = tonumber(string.match(all[i + 1], '%S+$'))
    if expires < tonumber(ARGV[4]) then redis.call('HDEL', KEYS[1], all[i]) end
  end
end
return 1
