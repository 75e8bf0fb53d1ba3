-- Members of the index KEYS[1] that are also in the index KEYS[2], newest first.
--
-- Returns {ids in both indexes, last id that was looked at, or '' at the end of the index}.
local start, max_looked_at = ARGV[1], ARGV[2]

local ids, found = redis.call('ZRANGE', KEYS[1], start, '-', 'BYLEX', 'REV', 'LIMIT', 0, max_looked_at), {}
for _, id in ipairs(ids) do
  if redis.call('ZSCORE', KEYS[2], id) then
    found[#found + 1] = id
  end
end
return {found, ids[#ids] or ''}
