--- @include "job"
-- Ends the lease of a process that died, or the job, if there is a problem that another attempt would meet again.
--
-- Returns the state, or '' if the process did not hold the lease.
local token_prefix, time_text = ARGV[2], ARGV[3]
local problem = ARGV[4]       -- that the job ends with, or ''
local last_problem = ARGV[5]  -- that the job ends with only if it may lose no more workers, or ''
local crash_signal = ARGV[6]  -- or ''

if string.sub(field('token') or '', 1, #token_prefix) ~= token_prefix then
  return ''
end
local state = field('state')
if problem == '' or state == 'cancelling' then
  set('lease_until', 0)
  if last_problem ~= '' then
    set('trouble', last_problem)
  end
  if crash_signal ~= '' then
    set('crashed_by', crash_signal)
  end
  return state
end
unset('token', 'lease_until')
change_state(state, 'failed')
set('finished_at', time_text, 'error', problem)
publish_event()
return 'failed'
