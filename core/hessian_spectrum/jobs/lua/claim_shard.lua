--- @include "shard"
-- Claims a free shard for a worker that does not hold the job. Returns what claim_free returns.
local lease_seconds, max_losses, numerics_fingerprint = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

if job_field('shards_signature') ~= numerics_fingerprint then
  return NONE
end
return claim_free(lease_seconds, max_losses)
