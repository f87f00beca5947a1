--@include clock
--@include append
--@include record
--@include route
--@include quota
--@include finish
-- sweep: answer the calls whose deadline has passed, whatever became of their worker.
-- Guarantee: every member of `deadlines` leaves it, with an error as the answer if the call was still pending; an entry
-- of the lane that its worker has left unacknowledged beyond any deadline leaves the lane; and where there is room for a
-- tenant's surplus, it has moved.
-- KEYS: 1 deadlines, 2 calls
-- ARGV: 1 grace in ms, 2 most calls, 3 what the lane's keys begin with, 4 the error as JSON, 5 channels' beginning,
--       6 outbox messages, 7 outbox bytes, 8 outbox lifetime in ms, 9 ms beyond any deadline, 10 repeated
-- Returns the ids of the calls that were answered.
local now, swept = clock(), {}
local limits = outbox_limits(ARGV[6], ARGV[7], ARGV[8])
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])) do
  local tenant, sid, call = string.match(member, '^(.-):(.-):(.*)$')
  local base = ARGV[3] .. 't:' .. tenant .. ':'
  local session = base .. 's:' .. sid
  local state = redis.call('HMGET', session, 'p:' .. call, 'box', 'holder')
  if state[1] then
    local entry, place, rest = split(state[1])
    local answer = '{"jsonrpc":"2.0","id":' .. id_of(rest) .. ',"error":' .. ARGV[4] .. '}'
    local stream, name, box, holder, bare = route(session, sid, place, state[2], state[3])
    append(stream, name, ARGV[5], box, holder, limits, now, call, answer, bare)
    finish(session, call, place, member, rest, now, 'timeout\n0\n0', '')
    withdraw(KEYS[2], base, entry)
    forget(KEYS[1], {member}, ARGV[3], base)
    table.insert(swept, call)
  else -- its session has ended before it
    forget(KEYS[1], {member}, ARGV[3], base)
  end
end
send_all()
audit(ARGV[3])
-- Before the first worker there is no group, and nothing that it could have left.
local left_behind = redis.pcall('XPENDING', KEYS[2], 'workers', 'IDLE', ARGV[9], '-', '+', ARGV[2])
for _, left in ipairs(left_behind) do
  redis.call('XACK', KEYS[2], 'workers', left[1])
  redis.call('XDEL', KEYS[2], left[1])
end
-- There may be more slots than when a tenant's surplus was put aside.
for _, base in ipairs(redis.call('SMEMBERS', ARGV[3] .. 'surplus')) do
  if redis.call('XLEN', base .. 'surplus') == 0 then
    redis.call('SREM', ARGV[3] .. 'surplus', base)
    redis.call('DEL', base .. 'surplus')
  end
  refill(ARGV[3], base, tonumber(redis.call('HGET', base .. 'usage', 'inflight') or 0))
end
return swept
