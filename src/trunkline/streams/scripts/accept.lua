--@include renew
--@include begin
--@include measure
-- accept: clients' messages of one lane become accepted ones: recorded as pending with their deadline and appended to
-- the lane.
-- Guarantee: of each message all of it or nothing; an accepted request is in `deadlines` until it is answered.
-- Repeated, a request is accepted once: it is still pending, or its answer is in the outbox. (A repeated notification
-- may arrive twice.)
-- The first write is one that a full Redis refuses, so a refusal leaves nothing half done. What comes so late that the
-- pod has refused it meanwhile, because Redis hung or the network held it, is not accepted.
-- A tenant has at most as many requests in its lane and running as all workers have slots; what it sends beyond waits in
-- its surplus (see refill), so that other tenants of the lane need not wait behind it.
-- The pods that hold the streams are told what was accepted: "\n" and session, call and JSON-RPC id, a line each. A POST's
-- stream needs no telling: the pod that accepts holds it.
-- KEYS: 1 deadlines, 2 calls. The names of a tenant's keys are built here from what the lane's begin with:
-- all are on the lane's shard, and sending them would double what a message costs.
-- ARGV: 1 time for a call in ms, 2 session lifetime in ms, 3 longest lane, 4 longest audit backlog, 5 what the lane's
--       keys begin with, 6 epoch ms until which the pod waits, 7 us between sessions at the limit, 8 us of burst,
--       9 number of parties; for each party, which is what messages have in common: owner, tenant, most in flight, us
--       between messages at the limit, us of burst, kind, pod, transport, most sessions (see begin), caller, limits of the key and
--       quotas ('' for none, see measure); for each message: number of its party, call, JSON-RPC id as JSON ('' for a notification), body, audit seed, session id, stream, context;
--       last: repeated
-- kind: '' for messages whose answer comes on the session's own stream, "formal" for those of them that go no further if
--       the session's context begins with {"formal":true, which is all that initialized clients say to most servers; by a
--       POST that this pod holds: "post" in a session, "part" of several requests of a POST in a session, "open" opens it,
--       "lone" is the only message of a session of its own, which no other names.
-- stream: the call that names the POST's; caller: where the message opens a session; context: of a lone one.
-- Returns for each message how many more may come at once, by the rate of its key if that has one, else its tenant's; -1
-- for one that was accepted before; for a metered call {'ok', that, and what it and those before it use, see measure}; or
-- {reason, ms after which to try again}: gone, lane, audit, inflight, rate, late, and those of measure; if it opens a
-- session also sessions, key sessions, session rate.
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local accepted, deadline = string.format('%d', now), string.format('%d', now + ARGV[1])
local room = ARGV[3] - redis.call('XLEN', KEYS[2])
local unwritten, most_unwritten = tonumber(redis.call('GET', ARGV[5] .. 'unwritten') or 0), tonumber(ARGV[4])
local repeated = ARGV[#ARGV] == '1'
local slots = tonumber(redis.call('GET', ARGV[5] .. 'slots') or math.huge)
local usages, due_at, answers, told = {}, {}, {}, {}

local function party_of(at)
  local owner, tenant, most, interval, burst, kind, pod, transport, sessions, caller, more = unpack(ARGV, at, at + 10)
  local base = ARGV[5] .. 't:' .. tenant .. ':'
  local usage = usages[base]
  if not usage then
    local stored = redis.call('HMGET', base .. 'usage', 'inflight', 'due')
    usage = {inflight = tonumber(stored[1] or 0), due = tonumber(stored[2] or 0)}
    usages[base] = usage
  end
  return {
    owner = owner, tenant = tenant, most = tonumber(most), interval = tonumber(interval), burst = tonumber(burst),
    kind = kind, pod = pod, transport = transport, sessions = sessions, caller = caller, base = base, usage = usage,
    meter = more ~= '' and meter_of(more, now),
  }
end

-- Whether a repeated request was accepted the first time.
local function known(session, record, call)
  if redis.call('HEXISTS', session, 'p:' .. call) == 1 then return true end
  for _, entry in ipairs(redis.call('XREVRANGE', record .. ':out', '+', '-')) do
    if entry[2][4] == call then return true end
  end
  return false
end

-- The record of the stream that the answers of a POST with several requests go to; whichever comes first makes it.
local function hold(record, pod)
  if redis.call('HSETNX', record, 'holder', '1 ' .. pod) == 1 then
    redis.call('HSET', record, 'box', '0 1 0 0', 'batch', '1')
  end
  redis.call('PEXPIRE', record, ARGV[2])
end

-- Whether audit events wait indeed: where no entry is left, somebody has taken them away, and nothing else would count anew.
local function full()
  if redis.call('XLEN', ARGV[5] .. 'audit') > 0 then return true end
  unwritten = 0
  redis.call('DEL', ARGV[5] .. 'unwritten')
  return false
end

local function accept(party, call, id, body, seed, sid, stream, context)
  local kind, base, usage, caller = party.kind, party.base, party.usage, party.caller
  local session = base .. 's:' .. sid
  local request, own, fresh, holder = id ~= '', kind == '' or kind == 'formal', nil, nil
  if own or kind == 'post' or kind == 'part' then
    local state = redis.call('HMGET', session, 'principal', 'context', 'fresh', 'caller', 'holder')
    if state[1] ~= party.owner then return {'gone', 0} end
    context, fresh, caller, holder = state[2] or '', state[3], state[4], state[5]
  end
  local record = (own or kind == 'lone') and session or session .. '.' .. stream
  if repeated and request and known(session, record, call) then return -1 end
  if room <= 0 then return {'lane', 1000} end
  if unwritten >= most_unwritten and full() then return {'audit', 5000} end
  if request and usage.inflight >= party.most then return {'inflight', 1000} end

  -- The generic cell rate algorithm: `due` is the theoretical arrival time of the next message, in epoch us.
  local due = math.max(usage.due, us) + party.interval
  local early = due - us - party.burst
  if early > 0 then return {'rate', math.ceil(early / 1000)} end
  local left, meter, use = math.floor(-early / party.interval), party.meter, nil
  if meter then
    local refusal
    refusal, use = measure(base, meter, request and seed ~= '', us, now)
    if refusal then return refusal end
    if use.due then left = math.floor((meter[3] + us - use.due) / meter[2]) end
  end
  if kind == 'open' then
    local refused = begin(session, base .. 'sessions', base .. 'usage', sid, party.owner, '0 -', caller, ARGV[2], party.sessions,
      ARGV[7], ARGV[8], us)
    if refused then return refused[1] == 'rate' and {'session rate', refused[2]} or refused end
  end
  if meter then seed = seed .. settle(base, party.tenant, ARGV[5], meter, use, call, now) end
  if kind == 'part' and request then hold(record, party.pod) end
  usage.due, usage.changed = due, true
  if fresh and now - fresh > 0 then
    renew(session, base .. 'sessions', sid, ARGV[2], now)
  end
  if kind == 'formal' and string.sub(context, 1, 14) == '{"formal":true' then return left end

  local head = '1\n' .. call .. '\n' .. party.tenant .. '\n' .. sid .. '\n' .. accepted .. '\n' .. (request and deadline or '0')
  local waits = request and usage.inflight >= slots
  local lane = waits and base .. 'surplus' or KEYS[2]
  local entry
  if own then
    entry = redis.call('XADD', lane, '*', 'h', head, 'b', body, 'a', caller, 'x', context)
  else
    entry = redis.call('XADD', lane, '*', 'h', head, 'b', body, 'a', caller, 'x', context, 't', party.transport)
  end
  if not waits then room = room - 1 end
  if request then
    usage.inflight = usage.inflight + 1
    if waits then
      entry = 's' .. entry
      redis.call('PEXPIRE', lane, ARGV[2])
      redis.call('SADD', ARGV[5] .. 'surplus', base)
    end
    local place = kind == 'lone' and '-' or kind == 'part' and stream or stream .. ' ' .. party.pod
    if own then
      place = ''
      local pod = string.match(holder, ' (.*)')
      told[pod] = (told[pod] or '') .. '\n' .. sid .. '\n' .. call .. '\n' .. id
    end
    local pending = entry .. '\n' .. place .. '\n' .. accepted .. '\n' .. id .. '\n' .. seed -- see record
    if kind == 'lone' then
      redis.call('HSET', session, 'principal', party.owner, 'holder', '1 ' .. party.pod, 'p:' .. call, pending)
    else
      redis.call('HSET', session, 'p:' .. call, pending)
    end
    due_at[#due_at + 1] = deadline
    due_at[#due_at + 1] = party.tenant .. ':' .. sid .. ':' .. call
  end
  if use and use[1] then return {'ok', left, use[1], use[2], use[3], use[4]} end
  return left
end

local late = now > tonumber(ARGV[6])
local parties = {}
for number = 1, ARGV[9] do parties[string.format('%d', number)] = party_of(number * 11 - 1) end
for a = 10 + ARGV[9] * 11, #ARGV - 1, 8 do
  answers[#answers + 1] = late and {'late', 1000} or accept(parties[ARGV[a]], unpack(ARGV, a + 1, a + 7))
end
if #due_at > 0 then redis.call('ZADD', KEYS[1], unpack(due_at)) end
for pod, accepted_calls in pairs(told) do redis.call('PUBLISH', ARGV[5] .. 'pod:' .. pod, accepted_calls) end
for base, usage in pairs(usages) do
  if usage.changed then
    redis.call('HSET', base .. 'usage', 'due', string.format('%d', usage.due), 'inflight', usage.inflight)
    redis.call('PEXPIRE', base .. 'usage', ARGV[2])
  end
end
return answers
