--- @include "clock"
-- Jobs of the index KEYS[1] whose lease has run out, from the id ARGV[1] on.
--
-- Returns {their ids, last id that was looked at, or '' at the end of the index}.
local start, max_looked_at = ARGV[1], ARGV[2]

local ids, lapsed, time = redis.call('ZRANGE', KEYS[1], start, '+', 'BYLEX', 'LIMIT', 0, max_looked_at), {}, now()
for _, id in ipairs(ids) do
  if tonumber(redis.call('HGET', JOB .. id, 'lease_until') or 0) <= time then
    lapsed[#lapsed + 1] = id
  end
end
return {lapsed, ids[#ids] or ''}
