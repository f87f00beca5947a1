-- subscribe: a session is told when a resource is updated.
-- KEYS: 1 session, 2 its subscriptions, 3 subscribers of the tenant
-- ARGV: 1 session id, 2 resource, 3 lifetime in ms, 4 most subscriptions of a session, 5 repeated
-- Returns 1, 0 when it has as many as it may, or has ended.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[4]) and redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 0 then return 0 end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return 1
