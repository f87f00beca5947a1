-- seed: how much of a tenant's quotas was used this month is told, in two steps; between them it is read from Postgres.
-- Guarantee: what ended before the first step was in Postgres by then or is among the entries that it returns, and what
-- ends later is counted: so the sum of all is exact, if no writer commits events of this tenant between the steps. Of
-- several who do this at once, only the last to begin finishes.
-- KEYS: 1 the tenant's use in the month, 2 the lane's audit stream, 3 how many events it holds
-- ARGV: 1 a number that no other has, 2 most events of the stream, 3 lifetime in ms, 4 what becomes known: seeded:tenant, or
--       seeded if the tenant has no quotas; in the second step more: field and number, for each; last: repeated
-- Returns 1 if all is known, 0 if that was in vain; after the first step else what the entries hold.
if redis.call('HEXISTS', KEYS[1], ARGV[4]) == 1 then return 1 end
if #ARGV == 5 then
  -- An entry has one event or more; the number of these is only nearly right.
  local unwritten = math.max(redis.call('XLEN', KEYS[2]), tonumber(redis.call('GET', KEYS[3]) or 0))
  if unwritten > tonumber(ARGV[2]) then return 0 end
  local found = {}
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do table.insert(found, entry[2]) end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'seeding', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return found
end
if redis.call('HGET', KEYS[1], 'seeding') ~= ARGV[1] then return 0 end
for a = 5, #ARGV - 1, 2 do redis.call('HINCRBY', KEYS[1], ARGV[a], ARGV[a + 1]) end
redis.call('HDEL', KEYS[1], 'seeding')
redis.call('HSET', KEYS[1], 'seeded', '1', ARGV[4], '1')
return 1
