--@include append
--@include finish
-- sweep: answer the calls whose deadline has passed, whatever became of their worker.
-- Guarantee: every member of `deadlines` leaves it, with an error as the answer if the call was still pending.
-- KEYS: 1 deadlines, 2 calls, 3 audit
-- ARGV: 1 grace in ms, 2 most calls, 3 what the lane's keys begin with, 4 the error as JSON, 5 channels' beginning,
--       6 outbox messages, 7 outbox bytes, 8 outbox lifetime in ms, 9 repeated
-- Returns the ids of the calls that were answered.
local now = clock()
local limits = {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])}
local swept = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])) do
  local tenant, sid, call = string.match(member, '^(.-):(.-):(.*)$')
  local base = ARGV[3] .. 't:' .. tenant .. ':'
  local session = base .. 's:' .. sid
  local entry, id = finish(session .. ':pending', KEYS[1], KEYS[2], KEYS[3], base .. 'inflight', member, call, now, 'timeout', '')
  if entry then
    redis.call('XACK', KEYS[2], 'workers', entry)
    redis.call('XDEL', KEYS[2], entry)
    if redis.call('EXISTS', session) == 1 then
      local answer = '{"jsonrpc":"2.0","id":' .. id .. ',"error":' .. ARGV[4] .. '}'
      append(session, session .. ':out', sid, ARGV[5], limits, now, call, answer)
    end
    table.insert(swept, call)
  end
end
return swept
