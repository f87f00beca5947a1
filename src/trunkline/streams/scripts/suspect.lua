-- suspect: a worker begins a call that was lost with two others: should it die meanwhile, it died of that.
-- KEYS: 1 suspects   ARGV: 1 worker, 2 call, 3 repeated
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], 86400000)
return 1
