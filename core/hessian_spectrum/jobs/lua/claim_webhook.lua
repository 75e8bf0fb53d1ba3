--- @include "clock"
-- Claims the message of KEYS[1] that is due first: nobody else sends it for the length of the lease.
--
-- Returns {id of its job, attempt}, or nothing if no message is due.
local lease_seconds = ARGV[1]

local job_id = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'LIMIT', 0, 1)[1]
if not job_id then
  return
end
redis.call('ZADD', KEYS[1], now() + lease_seconds, job_id)
return {job_id, redis.call('HINCRBY', JOB .. job_id, 'webhook_attempts', 1)}
