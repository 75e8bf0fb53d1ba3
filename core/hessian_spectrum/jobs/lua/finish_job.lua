--- @include "job"
-- Ends a job; one that is being cancelled ends as cancelled.
--
-- Returns the final state, or 'lost' if the lease is another's.
local token, final_state, time_text = ARGV[2], ARGV[3], ARGV[4]
local outcome_field, outcome = ARGV[5], ARGV[6]  -- `error`, `result_digest`, or '' if there is neither
local result_users = ARGV[7]                     -- set of the jobs with that result, or ''
local cache_prefix = ARGV[8]                     -- of cached results of the worker's version, or ''

if field('token') ~= token then
  return 'lost'
end
local state, ended_as = field('state'), final_state
if state == 'cancelling' then
  ended_as = 'cancelled'
end
change_state(state, ended_as)
set('finished_at', time_text)
unset('token', 'lease_until')
if ended_as == final_state and outcome_field ~= '' then
  set(outcome_field, outcome)
  if result_users ~= '' then
    link_result(result_users)
  end
  local cache_key = field('question')
  if cache_prefix ~= '' and cache_key then
    set('answers', cache_prefix .. cache_key)
    redis.call('SET', cache_prefix .. cache_key, outcome)
  end
end
publish_event()
return ended_as
