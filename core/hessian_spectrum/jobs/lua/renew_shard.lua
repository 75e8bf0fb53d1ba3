--- @include "shard"
-- Extends the time of a shard, and notes the products of the shard with this index.
--
-- Returns 1 if the worker is to continue, which it also does while the job waits for its next worker; else 0.
local lease_seconds, index, num_products = ARGV[2], tonumber(ARGV[3]), ARGV[4]

local held = held_index()
local state = job_field('state')
if not held or (state ~= 'running' and state ~= 'queued') or job_field('shard_problem') then
  return 0
end
redis.call('HSET', job_key, shard_field(held, 'until'), now() + lease_seconds)
if index == held then
  redis.call('HSET', job_key, shard_field(held, 'products'), num_products)
end
return 1
