--@include record
--@include route
-- hangup: ask the pod that holds a stream to end it; its client comes back for what is to come.
-- KEYS: 1 session
-- ARGV: 1 session id, 2 call whose stream it is, '' for the session's own, 3 channels' beginning, 4 repeated
local state = redis.call('HMGET', KEYS[1], 'box', 'holder', 'p:' .. ARGV[2])
local name, holder = ARGV[1], state[2]
if ARGV[2] ~= '' then
  if not state[3] then return 0 end
  local _, place = split(state[3])
  local _, stream, _, held = route(KEYS[1], ARGV[1], place, state[1], state[2])
  name, holder = stream, held
end
if not holder then return 0 end
local generation, pod = string.match(holder, '(%d+) (.*)')
return redis.call('PUBLISH', ARGV[3] .. pod, '0\n' .. name .. '\n' .. generation .. '\n0\npoll\n')
