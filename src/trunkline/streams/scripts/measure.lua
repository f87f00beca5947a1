--@include month
-- measure: whether a message is within the limits of its key and the monthly quotas, see KeyLimits and Quotas.
-- Guarantee: exact in calls: as many are accepted in a month as the quota has, however many pods accept at once. In
-- compute it is exceeded by what is running. Nothing is written before `settle`, so a refusal changes nothing.
-- more: lines, each with its end: key, us between its messages, us of its burst, its most tool calls in flight; calls of the tenant in a
--       month, from which on it is told, us of compute, from which on it is told; the same four of the key; ms that a call
--       lives at most; '1' to go on where what was used this month is not known. '' where there is none.
-- A metered call is marked by a byte behind its seed: ' ' for its tenant, '\t' for its key as well, '\r' for a key that has
-- but a most in flight.
-- What was used in a month is not known before `seed` has told it, nor after Redis lost it. What a tenant has used is
-- told apart: calls of a tenant without quotas are not metered, though one of its keys has some.
local meters = {}

local function meter_of(more, now)
  local meter = meters[more]
  if not meter then
    meter = {month = {month(now)}}
    local n = 0
    for line in string.gmatch(more, '(.-)\n') do
      n = n + 1
      meter[n] = n == 1 and line or tonumber(line) or false
    end
    meter.tenant = meter[5] or meter[6] or meter[7] or meter[8]
    meter.key = meter[9] or meter[10] or meter[11] or meter[12]
    meter.counts = meter.tenant or meter.key
    meters[more] = meter
  end
  return meter
end

local function beyond(hard, used) return hard and used >= hard end

-- Returns nothing, or {reason, ms after which to try again}: key rate, key inflight, calls, compute; {unseeded, month, 1 if it is the tenant's}.
-- Beside it, what settle needs.
local function measure(base, meter, tool, us, now)
  local open, due = base .. 'key:' .. meter[1], nil
  if meter[2] then
    due = math.max(tonumber(redis.call('GET', open .. ':due') or 0), us) + meter[2]
    local early = due - us - meter[3]
    if early > 0 then return {'key rate', math.ceil(early / 1000)} end
  end
  if not tool then return nil, {due = due} end
  local alive, mine = string.format('(%d', now), nil
  if meter[4] or meter.key then
    mine = redis.call('ZCOUNT', open, alive, '+inf')
    if beyond(meter[4], mine) then return {'key inflight', 1000} end
  end
  if not meter.counts then return nil, {due = due, tool = true} end
  local stored = redis.call('HMGET', base .. 'quota:' .. meter.month[1], meter.tenant and 'seeded:tenant' or 'seeded', 'calls', 'us',
    'calls:' .. meter[1], 'us:' .. meter[1])
  local use = {due = due, tool = true}
  for n = 1, 4 do use[n] = tonumber(stored[n + 1] or 0) end
  if not stored[1] then
    if not meter[14] then return {'unseeded', meter.month[1], meter.tenant and 1 or 0} end
  else
    use[1] = use[1] + redis.call('ZCOUNT', base .. 'quota:open', alive, '+inf')
    use[3] = use[3] + (mine or 0)
    if beyond(meter[5], use[1]) or beyond(meter[9], use[3]) then return {'calls', meter.month[2]} end
    if beyond(meter[7], use[2]) or beyond(meter[11], use[4]) then return {'compute', meter.month[2]} end
  end
  use[1], use[3] = use[1] + 1, use[3] + 1
  return nil, use
end

-- warn: once a month, an event says that more is used than is told of.
local function warn(base, tenant, lane, meter, now, what, key, soft, used)
  if not soft or used <= soft then return end
  if redis.call('HSETNX', base .. 'quota:' .. meter.month[1], 'told:' .. what .. ':' .. key, '1') == 0 then return end
  -- Its id follows from what it says: told again, after Redis lost that it was, it is the same event.
  local id = redis.sha1hex(tenant .. meter.month[1] .. what .. key)
  id = string.sub(id, 1, 12) .. '8' .. string.sub(id, 14, 16) .. 'a' .. string.sub(id, 18, 32)
  local seed = string.format('{"action":"quota.soft","target":"%s","actor":"%s","detail":{"month":"%s","soft":%d,"used":%d}}',
    what, key, meter.month[1], soft, used)
  local at = string.format('%d', now)
  redis.call('XADD', lane .. 'audit', '*', 'e', table.concat({tenant .. '::' .. id, 'ok\n0\n0', '', at, at, 'null', seed}, '\n'))
  redis.call('INCR', lane .. 'unwritten')
end

-- settle: the message is accepted, and counts.
-- Returns what is written behind its seed.
local function settle(base, tenant, lane, meter, use, call, now)
  local open, life = base .. 'key:' .. meter[1], meter[13]
  if use.due then
    local life = math.min(math.ceil(meter[3] / 1000) + 60000, 2592000000) -- more than 30 days would be more than SET takes
    redis.call('SET', open .. ':due', string.format('%d', use.due), 'PX', string.format('%d', life))
  end
  if not use.tool then return '' end
  if meter[4] or meter.key then
    redis.call('ZADD', open, now + life, call) -- first, since a full Redis refuses it
    redis.call('ZREMRANGEBYSCORE', open, '-inf', now)
    redis.call('PEXPIRE', open, life)
  end
  if not meter.counts then return meter[4] and '\r' or '' end
  redis.call('ZADD', base .. 'quota:open', now + life, call)
  redis.call('ZREMRANGEBYSCORE', base .. 'quota:open', '-inf', now)
  redis.call('PEXPIRE', base .. 'quota:open', life)
  warn(base, tenant, lane, meter, now, 'calls', '', meter[6], use[1])
  warn(base, tenant, lane, meter, now, 'compute', '', meter[8], use[2])
  warn(base, tenant, lane, meter, now, 'calls', meter[1], meter[10], use[3])
  warn(base, tenant, lane, meter, now, 'compute', meter[1], meter[12], use[4])
  return meter.key and '\t' or meter[4] and '\t' or ' '
end
