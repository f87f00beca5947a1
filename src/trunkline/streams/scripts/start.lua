--@include record
-- start: a worker is about to begin attempts that leave a trace, in calls of one lane.
-- Guarantee: recorded before the first side effect; of all who ask for one attempt of a call, one may begin it. A call
-- that was answered, taken back or given to another worker is not begun.
-- Field "o:<call>" of the session: number of the attempt, worker, "r" if the call may be repeated or "n".
-- KEYS: 1 calls   ARGV: 1 what the lane's keys begin with; for each call: tenant, session id, call, lane entry, mark
--       (what "o:<call>" is to hold); last: repeated
-- Returns for each 1, 0 when nobody waits for an answer any more, -1 when the attempt is not this worker's.
local repeated = ARGV[#ARGV] == '1'
local verdicts = {}

local function start(tenant, sid, call, entry, mark)
  local session = ARGV[1] .. 't:' .. tenant .. ':s:' .. sid
  local state = redis.call('HMGET', session, 'p:' .. call, 'o:' .. call)
  if not state[1] then return 0 end
  if split(state[1]) ~= entry then return -1 end
  if state[2] then return repeated and state[2] == mark and 1 or -1 end
  redis.call('HSET', session, 'o:' .. call, mark)
  return 1
end

for a = 2, #ARGV - 1, 5 do
  table.insert(verdicts, start(unpack(ARGV, a, a + 4)))
end
return verdicts
