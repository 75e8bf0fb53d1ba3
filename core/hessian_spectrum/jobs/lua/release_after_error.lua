--- @include "job"
-- Notes the error for which a worker ends an attempt. The lease runs out by itself; if it is the last that the job may
-- lose, the job fails with this problem.
--
-- Returns the state, or 'lost' if the lease is another's.
local token, problem = ARGV[2], ARGV[3]

if field('token') ~= token then
  return 'lost'
end
set('trouble', problem)
return field('state')
