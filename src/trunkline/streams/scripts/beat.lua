-- beat: a worker is alive for the next milliseconds; who has been silent longer is forgotten after a minute.
-- KEYS: 1 workers   ARGV: 1 worker and its slots, 2 ms, 3 repeated
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60000)
return now
