--- @include "shard"
-- Releases the shard that the token holds; the job is to end if there is a problem.
--
-- Returns 1, or 0 if the token holds no shard.
local problem = ARGV[2]  -- or ''

local held = held_index()
if not held then
  return 0
end
release(held)
if problem ~= '' then
  redis.call('HSETNX', job_key, 'shard_problem', problem)
end
return 1
