-- record: field "p:<call>" of a session, what is kept of a request until it is answered, a line each:
-- lane entry (with an "s" in front while it waits in the tenant's surplus), place of the answer (see route), epoch ms of
-- acceptance, JSON-RPC id, audit seed ('' where no event is due). The lane entry names the attempt of the call that counts.

-- Returns lane entry, place, and all after them as it is.
local function split(record)
  local first = string.find(record, '\n', 1, true)
  local second = string.find(record, '\n', first + 1, true)
  return string.sub(record, 1, first - 1), string.sub(record, first + 1, second - 1), string.sub(record, second + 1)
end

-- The JSON-RPC id, of what comes after lane entry and place.
local function id_of(rest)
  return string.match(rest, '\n(.-)\n')
end
