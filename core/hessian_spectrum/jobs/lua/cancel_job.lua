--- @include "job"
-- Cancels a queued job at once; a running one ends when its worker sees the state `cancelling`.
--
-- Returns the state, or '' if there is no such job.
local time_text = ARGV[2]

local state = field('state')
if state == 'queued' then
  change_state(state, 'cancelled')
  set('finished_at', time_text)
  publish_event()
elseif state == 'running' then
  change_state(state, 'cancelling')
  publish_event()
end
return field('state') or ''
