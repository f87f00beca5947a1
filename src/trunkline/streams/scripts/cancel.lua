--@include clock
--@include append
--@include record
--@include route
--@include quota
--@include finish
--@include pace
-- cancel: the client takes back a request, named by its JSON-RPC id.
-- Guarantee: no answer to it is sent afterwards; what no worker has claimed yet never runs, and the worker that runs it is
-- told. The stream of a POST ends with an
-- error in the answer's place, since a client that resumes it must find its end; a session's own stream goes on without.
-- KEYS: 1 session, 2 deadlines, 3 calls
-- ARGV: 1 owner, 2 JSON-RPC id as JSON, 3 session id, 4 members' beginning ("<tenant>:<session>:"), 5 what the lane's keys
--       begin with, 6 what the tenant's begin with, 7 the error as JSON, 8 channels' beginning, 9 outbox messages,
--       10 outbox bytes, 11 outbox lifetime in ms, 12 control channel, 13 us between messages at the limit, 0 for none,
--       14 us of burst, 15 repeated
-- Returns the ids of the cancelled calls; 0: no such session of this owner; ms after which to try again, negative: the
-- tenant sends faster than it may.
if redis.call('HGET', KEYS[1], 'principal') ~= ARGV[1] then return 0 end
local early = pace(ARGV[6] .. 'usage', ARGV[13], ARGV[14])
if early > 0 then return -early end
local now, cancelled, members = clock(), {}, {}
local limits = outbox_limits(ARGV[9], ARGV[10], ARGV[11])
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local call, record = string.match(fields[i], '^p:(.*)$'), fields[i + 1]
  local entry, place, rest
  if call then entry, place, rest = split(record) end
  if call and id_of(rest) == ARGV[2] then
    local stream, name, box, holder, bare = route(KEYS[1], ARGV[3], place)
    if box then
      local answer = '{"jsonrpc":"2.0","id":' .. ARGV[2] .. ',"error":' .. ARGV[7] .. '}'
      append(stream, name, ARGV[8], box, holder, limits, now, call, answer, bare)
    end
    finish(KEYS[1], call, place, ARGV[4] .. call, rest, now, 'cancelled\n0\n0', '')
    withdraw(KEYS[3], ARGV[6], entry)
    call_off(ARGV[12], call, ARGV[3])
    table.insert(cancelled, call)
    table.insert(members, ARGV[4] .. call)
  end
end
send_all()
audit(ARGV[5])
if #members > 0 then forget(KEYS[2], members, ARGV[5], ARGV[6]) end
return cancelled
