--@include record
--@include again
-- handback: a worker that stops gives calls back to their lane: those that it never began, and repeatable ones that it
-- could not finish.
-- Guarantee: a call that is someone else's by now, or is not pending any more, is left as it is.
-- KEYS: 1 deadlines, 2 calls
-- ARGV: 1 what the lane's keys begin with; for each call: its lane entry, '1' if it was begun; last: repeated
-- Returns how many went back.
local count = 0
for a = 2, #ARGV - 1, 2 do
  local fields, version, call, tenant, sid = read(KEYS[2], ARGV[a])
  if version == '1' then
    local base = ARGV[1] .. 't:' .. tenant .. ':'
    local record = redis.call('HGET', base .. 's:' .. sid, 'p:' .. call) or nil
    local notification = string.match(fields.h, '%d+$') == '0'
    if notification or record and split(record) == ARGV[a] then
      again(KEYS[2], KEYS[1], base, ARGV[a], fields, sid, call, record,
        math.max(tonumber(fields.n or '1'), ARGV[a + 1] == '1' and 2 or 1), fields.k or '')
      count = count + 1
    end
  end
end
return count
