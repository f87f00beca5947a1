-- month: the calendar month (UTC) of an epoch time in ms, "2026-11", and the ms until its end.
-- Days to civil date by the Gregorian calendar's cycle of 400 years (146097 days), years beginning in March.
local function month(ms)
  local day = math.floor(ms / 86400000)
  local shifted = day + 719468
  local of_era = shifted % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  local number = from_march < 10 and from_march + 3 or from_march - 9
  year = year + math.floor(shifted / 146097) * 400 + (number <= 2 and 1 or 0)
  -- The first day of the next month, by how many days the months have.
  local days = ({31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31})[number]
  if number == 2 and (year % 4 == 0 and year % 100 ~= 0 or year % 400 == 0) then days = 29 end
  local first = day - (of_year - math.floor((153 * from_march + 2) / 5))
  return string.format('%04d-%02d', year, number), (first + days) * 86400000 - ms
end
