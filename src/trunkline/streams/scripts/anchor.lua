-- anchor: keep the newest head of a chain, unless the one that is kept shows that the chain is not the one it was.
-- Guarantee: a head that doubts what came later stays until a head comes that says itself that its chain was broken.
-- Honest writers commit one after another, so what they keep is never between where another began and where it ended.
-- KEYS: 1 snapshot
-- ARGV: 1 number of the head, 2 head, 3 its hash, 4 lifetime in ms, 5 number and 6 hash of the head that it has grown from,
--       7 '1' if it says that its chain was broken
-- Returns 1; 0 if a later one is there, -1 if there is doubt.
local known = redis.call('HMGET', KEYS[1], 'version', 'hash', 'doubted')
local kept, seq, from = tonumber(known[1]), tonumber(ARGV[1]), tonumber(ARGV[5])
if kept and kept > seq then return 0 end
if kept and ARGV[7] ~= '1' then
  local other = known[2] and (kept == seq and known[2] ~= ARGV[3] or kept == from and known[2] ~= ARGV[6])
  if known[3] or other or (kept > from and kept < seq) then
    redis.call('HSET', KEYS[1], 'doubted', '1')
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    return -1
  end
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'value', ARGV[2], 'hash', ARGV[3])
redis.call('HDEL', KEYS[1], 'doubted')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
