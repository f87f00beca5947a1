-- route: the stream that the messages of a call go to: that of the POST which brought it, or its session's own.
-- stream: the call that names the POST's stream, '' for the session's own; box, holder: those of the session's own stream
-- Returns the key of the stream's record, the stream's name, its box and its holder; no box where Redis has lost it.
local function route(session, sid, stream, box, holder)
  if stream == '' then return session, sid, box, holder end
  local key = session .. '.' .. stream
  local state = redis.call('HMGET', key, 'box', 'holder')
  return key, sid .. '.' .. stream, state[1], state[2]
end
