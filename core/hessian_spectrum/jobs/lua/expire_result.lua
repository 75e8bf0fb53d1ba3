--- @include "job"
-- Takes the result from a job that succeeded; the problem says why from now on.
--
-- Returns 1, or 0 if the job had no result.
local problem = ARGV[2]

if field('state') ~= 'succeeded' then
  return 0
end
unlink_result()
unset('result_digest', 'answers')
set('error', problem)
change_state('succeeded', 'expired')
publish_event()
return 1
