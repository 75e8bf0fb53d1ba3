--- @include "shard"
-- Marks a shard whose result is lost as not done.
--
-- Returns 1, or 0 if the token is not that of the job's lease.
local index = ARGV[2]

if job_field('token') ~= token then
  return 0
end
redis.call('HDEL', job_key, shard_field(index, 'done'))
return 1
