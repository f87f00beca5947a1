--@include renew
--@include record
--@include route
--@include pending
--@include page
-- attach: move a stream of a session to this pod, from the message after the last one that the client has seen.
-- Guarantee: what is appended or accepted later is told to this pod alone; what was before is in the outbox, up to the
-- newest offset in the answer; nothing falls between. Who held the stream before is told that it was replaced.
-- A stream of a POST that has no record (see route) is given one: it is pending, or its answer is all that its outbox has.
-- A client that names no message begins at the first one that is kept where nobody has held the stream yet, else at the
-- newest.
-- KEYS: 1 session, 2 record of the stream, 3 its outbox, 4 sessions of the tenant, 5 deadlines
-- ARGV: 1 session id, 2 owner, 3 stream ('' for the session's own, see route), 4 its name, 5 pod, 6 last offset seen, ''
--       for none named, 7 channels' beginning, 8 lifetime in ms, 9 members' beginning ("<tenant>:<session>:"), 10 bytes
--       of a page, 11 messages of a page, 12 repeated
-- Returns {generation, offset after which it begins, newest offset, first page of the messages, pending requests}, or 0: no
-- such stream of this owner, or messages are missing.
if redis.call('HGET', KEYS[1], 'principal') ~= ARGV[2] then return 0 end
local state = redis.call('HMGET', KEYS[2], 'holder', 'box')
local record = not state[1] and ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'p:' .. ARGV[3])
if record then
  local _, place = split(record)
  local _, _, box, holder = route(KEYS[1], ARGV[1], place)
  state = {holder, box}
elseif not state[1] then
  state = {'1 ', answered(KEYS[3], ARGV[3])}
end
if not state[2] then return 0 end
local generation, pod = string.match(state[1], '(%d+) (.*)')
local newest, oldest = string.match(state[2], '(%d+) (%d+)')
newest, oldest = tonumber(newest), tonumber(oldest)
local last = tonumber(ARGV[6]) or generation == '0' and oldest - 1 or newest
if last > newest then return 0 end
local missed = {}
if last < newest then
  missed = page(KEYS[3], last, ARGV[10], ARGV[11])
  local first = missed[1] and tonumber(string.match(missed[1][1], '^%d+'))
  if ARGV[6] == '' then
    last = (first or newest + 1) - 1
  elseif first ~= last + 1 then
    return 0
  end
end
local now = clock()
-- A full Redis refuses the first write, and nobody is told.
if record then make(KEYS[1], ARGV[3], record, KEYS[2], state[2], state[1], ARGV[8]) end
redis.call('HSET', KEYS[2], 'holder', (generation + 1) .. ' ' .. ARGV[5], 'box', state[2])
redis.call('PUBLISH', ARGV[7] .. pod, '0\n' .. ARGV[4] .. '\n' .. generation .. '\n0\nreplaced\n')
generation = generation + 1
renew(KEYS[1], KEYS[4], ARGV[1], ARGV[8], now)
if ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[2], ARGV[8]) end
return {generation, last, newest, missed, pending(KEYS[1], KEYS[5], ARGV[9], ARGV[3], now)}
