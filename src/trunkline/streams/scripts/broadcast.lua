--@include clock
--@include append
-- broadcast: messages that belong to no call, into the own streams of a tenant's sessions; a share of them at a time.
-- Guarantee: a session gets them in one step, and again only if the scan meets it again; called until the cursor is 0, every
-- session that lived all the while has got them. Of several who announce one change, one goes on.
-- KEYS: 1 the sessions (sorted set) or subscribers (set) of the tenant, 2 mark of the change
-- ARGV: 1 cursor, 2 what keys of the tenant's sessions begin with, 3 channels' beginning, 4 outbox messages, 5 outbox bytes,
--       6 outbox lifetime in ms, 7 tag, 8 id of the change, '' where nobody else announces it, 9 resource that was
--       updated, '' for a change of lists; for each list: its name ('' for a resource), message; last: repeated
-- Returns the next cursor, "0" at the end.
if ARGV[8] ~= '' and ARGV[1] == '0' and ARGV[#ARGV] == '0' then
  if not redis.call('SET', KEYS[2], ARGV[8], 'NX', 'PX', 60000) then return '0' end
end
local now = clock()
local limits = outbox_limits(ARGV[4], ARGV[5], ARGV[6])
local resource = ARGV[9] ~= ''
local found = redis.call(resource and 'SSCAN' or 'ZSCAN', KEYS[1], ARGV[1], 'COUNT', 64)

local function told(context)
  local known, decoded = pcall(cjson.decode, context or '')
  local lists = {}
  for _, list in ipairs(known and type(decoded.lists) == 'table' and decoded.lists or {}) do lists[list] = true end
  return lists
end

for i = 1, #found[2], resource and 1 or 2 do
  local sid = found[2][i]
  local session = ARGV[2] .. sid
  local state = redis.call('HMGET', session, 'box', 'holder', 'context')
  local box = state[1]
  if resource and not box then
    redis.call('SREM', KEYS[1], sid)
  elseif box and (not resource or redis.call('SISMEMBER', session .. ':subs', ARGV[9]) == 1) then
    local lists = resource and {[''] = true} or told(state[3])
    for a = 10, #ARGV - 1, 2 do
      if lists[ARGV[a]] then
        local _, after = append(session, sid, ARGV[3], box, state[2], limits, now, ARGV[7], ARGV[a + 1])
        box = after
      end
    end
  end
end
send_all()
return found[1]
