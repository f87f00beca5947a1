--@include clock
--@include append
-- vanished: requests that were accepted in a session, and of which Redis knows nothing any more, are answered with an error.
-- Guarantee: none that is pending, and none whose answer is in the session's outbox; nothing where what the outbox kept
-- since they were accepted is not all of it. Repeated, it finds its own answers.
-- KEYS: 1 session, 2 its outbox
-- ARGV: 1 session id, 2 channels' beginning, 3 outbox messages, 4 outbox bytes, 5 outbox lifetime in ms, 6 epoch ms before
--       which none of them was accepted, 7 the error as JSON; for each request: call, JSON-RPC id as JSON; last: repeated
-- Returns how many were answered.
local most = 256
local state = redis.call('HMGET', KEYS[1], 'box', 'holder')
local box, holder = state[1], state[2]
if not box then return 0 end
local unknown, any = {}, false
for a = 8, #ARGV - 1, 2 do
  if redis.call('HEXISTS', KEYS[1], 'p:' .. ARGV[a]) == 0 then unknown[ARGV[a]], any = true, true end
end
if not any then return 0 end
local sent = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', most)
for _, entry in ipairs(sent) do unknown[entry[2][4]] = nil end
local newest, first = string.match(box, '^(%d+) (%d+)')
local whole = newest == '0' or first == '1' and #sent == tonumber(newest)
local oldest = sent[#sent] and tonumber(string.match(sent[#sent][1], '%d+$'))
if not whole and not (oldest and oldest < tonumber(ARGV[6])) then return 0 end
local limits, now, answered = outbox_limits(ARGV[3], ARGV[4], ARGV[5]), clock(), 0
for a = 8, #ARGV - 1, 2 do
  if unknown[ARGV[a]] then
    local message = '{"jsonrpc":"2.0","id":' .. ARGV[a + 1] .. ',"error":' .. ARGV[7] .. '}'
    _, box = append(KEYS[1], ARGV[1], ARGV[2], box, holder, limits, now, ARGV[a], message, false)
    answered = answered + 1
  end
end
send_all()
return answered
