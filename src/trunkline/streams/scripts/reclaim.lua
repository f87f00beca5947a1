--@include clock
--@include append
--@include record
--@include route
--@include quota
--@include finish
--@include again
-- reclaim: what becomes of the calls that dead workers had claimed.
-- Guarantee: each leaves its worker in one step: a call that never started, or that may be repeated, goes back to the
-- lane; one that had started and may not be repeated is answered with "outcome unknown"; one that has cost as many
-- workers as an attempt may is answered and set aside; one that is not pending any more is dropped. Should a worker
-- live after all, its answers to these calls are refused.
-- KEYS: 1 deadlines, 2 calls, 3 parked
-- ARGV: 1 what the lane's keys begin with, 2 channels' beginning, 3 outbox messages, 4 outbox bytes, 5 outbox lifetime in
--       ms, 6 most entries, 7 most attempts, 8 error "outcome unknown" as JSON, 9 error "set aside" as JSON, 10 most calls
--       remembered as set aside, 11 ms for which they are; for each dead worker: its name, the call that ran its last
--       attempt there ('' for none); last: repeated
-- Returns how many entries were looked at and left their worker, then what became of each call: "again", "unknown" or
-- "parked", and its id.
local now, fates = clock(), {0}
local limits = outbox_limits(ARGV[3], ARGV[4], ARGV[5])

local function drop(entry)
  redis.call('XACK', KEYS[2], 'workers', entry)
  redis.call('XDEL', KEYS[2], entry)
end

local function answer(base, tenant, sid, call, state, error, outcome, worker)
  local session = base .. 's:' .. sid
  local member = tenant .. ':' .. sid .. ':' .. call
  local _, place, rest = split(state[1])
  local message = '{"jsonrpc":"2.0","id":' .. id_of(rest) .. ',"error":' .. error .. '}'
  local stream, name, box, holder, bare = route(session, sid, place, state[3], state[4])
  append(stream, name, ARGV[2], box, holder, limits, now, call, message, bare)
  finish(session, call, place, member, rest, now, outcome .. '\n0\n0', worker)
  forget(KEYS[1], {member}, ARGV[1], base)
end

local function decide(worker, suspect, entry)
  local fields, version, call, tenant, sid = read(KEYS[2], entry)
  if fields and version ~= '1' then return end -- of another release; answered by the sweep
  fates[1] = fates[1] + 1
  if not fields then return drop(entry) end
  local attempt = tonumber(fields.n or '1')
  local lost = (fields.k or '') .. ' ' .. worker
  local base = ARGV[1] .. 't:' .. tenant .. ':'
  if string.match(fields.h, '%d+$') == '0' then -- a notification: nobody waits for it
    if attempt >= tonumber(ARGV[7]) then return drop(entry) end
    return again(KEYS[2], KEYS[1], base, entry, fields, sid, call, nil, attempt + 1, lost)
  end
  local state = redis.call('HMGET', base .. 's:' .. sid, 'p:' .. call, 'o:' .. call, 'box', 'holder')
  local record, started = state[1], state[2]
  if not record or split(record) ~= entry then return drop(entry) end
  local fate = 'again'
  if started and string.sub(started, -1) == 'n' then
    answer(base, tenant, sid, call, state, ARGV[8], 'unknown', worker)
    drop(entry)
    fate = 'unknown'
  else
    -- The first attempt of what may be repeated is begun without a record: it counts. A later one counts if it was begun.
    -- The call that its worker surely died of is set aside once it has cost as many as it may; another one, which may
    -- only have run beside it, after twice as many.
    local counts = attempt == 1 or started
    local most = tonumber(ARGV[7])
    if started and (attempt >= most and suspect == call or attempt >= 2 * most) then
      redis.call('XADD', KEYS[3], 'MAXLEN', ARGV[10], '*', 'call', call, 'tenant', tenant, 'session', sid,
        'workers', lost, 'e', string.match(record, '[^\n]*$'))
      redis.call('PEXPIRE', KEYS[3], ARGV[11])
      answer(base, tenant, sid, call, state, ARGV[9], 'parked', worker)
      drop(entry)
      fate = 'parked'
    else
      again(KEYS[2], KEYS[1], base, entry, fields, sid, call, record, counts and attempt + 1 or attempt,
        counts and lost or fields.k or '')
    end
  end
  table.insert(fates, fate)
  table.insert(fates, call)
end

for a = 12, #ARGV - 1, 2 do
  local left = redis.call('XPENDING', KEYS[2], 'workers', '-', '+', ARGV[6], ARGV[a])
  for _, pending in ipairs(left) do decide(ARGV[a], ARGV[a + 1], pending[1]) end
  if #redis.call('XPENDING', KEYS[2], 'workers', '-', '+', 1, ARGV[a]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[2], 'workers', ARGV[a])
  end
end
send_all()
audit(ARGV[1])
return fates
