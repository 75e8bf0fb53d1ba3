--- @include "job"
-- Claims the publication of a queued job whose message is missing.
--
-- Workers take messages in order, so a message that is older than the next one to be taken no longer waits; without
-- any message, older than now. A recovered job has never been published.
-- Returns 1 to the one caller that is to publish the job.
local republish_seconds = ARGV[2]
local next_job_key = ARGV[3]  -- hash of the job whose message is taken next, or ''

if field('state') ~= 'queued' then
  return 0
end
local oldest = now()
if next_job_key ~= '' then
  oldest = tonumber(redis.call('HGET', next_job_key, 'published_at') or 0)
end
local published = tonumber(field('published_at'))
if published > 0 and published > oldest - republish_seconds then
  return 0
end
set('published_at', now())
return 1
