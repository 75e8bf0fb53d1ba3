-- Seconds since 1970 by the clock of Redis, which all processes share.
local function now()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1e6
end
