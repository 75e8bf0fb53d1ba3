--- @include "clock"
-- Claims the publication of queued jobs whose message is missing: among those that were recovered, whose ids follow in
-- ARGV, and among the oldest of the index KEYS[1].
--
-- Workers take messages in order, so a message that is older than the next one to be taken no longer waits; without
-- any message, older than now. A recovered job has never been published.
-- Returns the ids of the jobs that the one caller is to publish.
local republish_seconds, max_looked_at = ARGV[1], ARGV[2]
local next_job_key = ARGV[3]  -- hash of the job whose message is taken next, or ''

local oldest, taken = now(), {}
if next_job_key ~= '' then
  oldest = tonumber(redis.call('HGET', next_job_key, 'published_at') or 0)
end

local function take(job_id)
  local state, published = unpack(redis.call('HMGET', JOB .. job_id, 'state', 'published_at'))
  published = tonumber(published or 0)
  if state == 'queued' and (published == 0 or published <= oldest - republish_seconds) then
    redis.call('HSET', JOB .. job_id, 'published_at', now())
    taken[#taken + 1] = job_id
  end
end

for i = 4, #ARGV do
  take(ARGV[i])
end
for _, job_id in ipairs(redis.call('ZRANGE', KEYS[1], 0, max_looked_at - 1)) do
  take(job_id)
end
return taken
