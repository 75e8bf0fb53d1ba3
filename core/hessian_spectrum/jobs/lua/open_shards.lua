--- @include "shard"
-- Offers the shards of a job to all workers, and claims the first free one for the worker that holds the job.
--
-- Shards that were computed under another fingerprint, or in another number, are forgotten.
-- Returns what claim_free returns, or STRANGER if the token is not that of the job's lease.
local num_shards, shard_fingerprint, numerics_fingerprint = ARGV[2], ARGV[3], ARGV[4]
local max_losses = tonumber(ARGV[5])

if job_field('token') ~= token then
  return STRANGER
end
if job_field('shards_setup') ~= shard_fingerprint or job_field('shards') ~= num_shards then
  for index = 0, last_index() do
    release(index)
    redis.call('HDEL', job_key, shard_field(index, 'done'), shard_field(index, 'losses'), shard_field(index, 'products'))
  end
  redis.call('HDEL', job_key, 'shard_problem')
end
redis.call('HSET', job_key, 'shards', num_shards, 'shards_setup', shard_fingerprint,
  'shards_signature', numerics_fingerprint)
return claim_free(0, max_losses)
