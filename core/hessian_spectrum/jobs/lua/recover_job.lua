--- @include "job"
-- Puts a job whose lease ran out back into the queue, or ends it if it was cancelled or has lost too many workers.
--
-- Returns the new state, or '' if nothing had to change.
local max_losses, time_text = ARGV[2], ARGV[3]
local problem = ARGV[4]  -- of a job that lost too many workers, unless its last worker left one
local queued_progress = ARGV[5]

local state, lease_until = field('state'), field('lease_until')
if (state ~= 'running' and state ~= 'cancelling') or (lease_until and tonumber(lease_until) > now()) then
  return ''
end
unset('token', 'lease_until')
local to = 'queued'
if state == 'cancelling' then
  to = 'cancelled'
elseif redis.call('HINCRBY', job_key, 'losses', 1) >= tonumber(max_losses) then
  to = 'failed'
end
count('lease_losses')
if to == 'failed' then
  count('poisoned')
end
change_state(state, to)
if to == 'queued' then
  set('published_at', 0, 'progress', queued_progress)
else
  set('finished_at', time_text)
  if to == 'failed' then
    set('error', field('trouble') or problem)
  end
end
publish_event()
return to
