--- @include "shard"
-- Notes that a shard is done, and claims another if the worker wants one.
--
-- Returns what claim_free returns, or STRANGER if another worker has the shard.
local lease_seconds, max_losses = tonumber(ARGV[2]), tonumber(ARGV[3])
local index, num_products, wants_another = ARGV[4], ARGV[5], ARGV[6] == '1'

if holds(index) then
  release(index)
  redis.call('HSET', job_key, shard_field(index, 'done'), 1, shard_field(index, 'products'), num_products)
elseif not get(index, 'done') then
  return STRANGER
elseif not held_index() then
  return NONE
end
if not wants_another then
  return NONE
end
return claim_free(lease_seconds, max_losses)
