--- @include "job"
-- Extends the lease of a running job, writes its progress and interim result, and counts its products.
--
-- Returns the state, or 'lost' if the lease is another's. The time since the last renewal counts as run time, whatever
-- becomes of the attempt.
local token, lease_seconds = ARGV[2], ARGV[3]
local progress = ARGV[4]      -- or ''
local num_products = ARGV[5]  -- computed since the last renewal
local interim_digest = ARGV[6]  -- of a new interim result, or ''

if field('token') ~= token then
  return 'lost'
end
unset('nothing')  -- when Redis is out of memory, it refuses HSET as the first write of a script, but not after HDEL
local time = now()
redis.call('HINCRBYFLOAT', job_key, 'run_seconds', time - (field('signed_at') or time))
set('lease_until', time + lease_seconds, 'signed_at', time)
if num_products ~= '0' then
  count('products', num_products)
end
if interim_digest ~= '' then
  set_interim_result(interim_digest)
end
if progress ~= '' then
  set('progress', progress)
end
if progress ~= '' or interim_digest ~= '' then
  publish_event()
end
return field('state')
