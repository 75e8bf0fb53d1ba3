--- @include "job"
-- Puts a job back into the queue because its worker stops; no attempt is lost.
--
-- Returns the state, or 'lost' if the lease is another's. A job that is being cancelled ends.
local token, time_text, queued_progress = ARGV[2], ARGV[3], ARGV[4]

if field('token') ~= token then
  return 'lost'
end
local state, to = field('state'), 'queued'
if state == 'cancelling' then
  to = 'cancelled'
end
unset('token', 'lease_until')
change_state(state, to)
if to == 'queued' then
  count('given_back')
  set('published_at', now(), 'progress', queued_progress)
else
  set('finished_at', time_text)
end
publish_event()
return to
