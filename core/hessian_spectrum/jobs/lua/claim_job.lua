--- @include "job"
-- Gives the lease of a queued job to a worker.
--
-- Returns {attempt, seconds that earlier attempts ran, signal by which one of them crashed or ''}; attempt 0: refused.
-- The script may run twice for one call whose reply was lost; the second run returns the lease that the first gave.
local token, lease_seconds, time_text = ARGV[2], ARGV[3], ARGV[4]

local function claimed(attempt)
  return {attempt, field('run_seconds') or '0', field('crashed_by') or ''}
end

if field('token') == token then
  return claimed(tonumber(field('attempt')))
end
if field('state') ~= 'queued' then
  return {0, '0', ''}
end
change_state('queued', 'running')
redis.call('HSETNX', job_key, 'started_at', time_text)
unset('trouble')
set('token', token, 'lease_until', now() + lease_seconds, 'signed_at', now())
local attempt = redis.call('HINCRBY', job_key, 'attempt', 1)
publish_event()
return claimed(attempt)
