-- forget: streams that were delivered whole: at once where nobody can resume them, else after a while.
-- The record of a stateless request is none of them: it leaves with the answer.
-- KEYS: 1 calls, which only tells where the streams are
-- ARGV: 1 what the lane's keys begin with; for each stream: tenant, name, ms for which it is kept, 0 for none; last: repeated
local keys = {}
for a = 2, #ARGV - 1, 3 do
  local record = ARGV[1] .. 't:' .. ARGV[a] .. ':s:' .. ARGV[a + 1]
  if ARGV[a + 2] ~= '0' then
    redis.call('PEXPIRE', record, ARGV[a + 2], 'LT')
    redis.call('PEXPIRE', record .. ':out', ARGV[a + 2], 'LT')
  else
    table.insert(keys, record .. ':out')
    if string.find(ARGV[a + 1], '.', 1, true) then table.insert(keys, record) end
  end
end
return #keys > 0 and redis.call('UNLINK', unpack(keys)) or 0
