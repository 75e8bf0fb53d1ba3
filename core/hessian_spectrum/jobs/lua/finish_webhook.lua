--- @include "clock"
--- @include "counters"
-- Ends an attempt to send a message of KEYS[1]. The message stays for another attempt only if the outcome is `failed`.
--
-- Nothing changes if its job was deleted meanwhile, or if this attempt took so long that another one has begun.
local job_id, attempt, outcome, pause_seconds = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if outcome ~= 'failed' then
  if redis.call('ZREM', KEYS[1], job_id) == 1 then
    count('webhook:' .. outcome)
  end
elseif redis.call('HGET', JOB .. job_id, 'webhook_attempts') == attempt then
  redis.call('ZADD', KEYS[1], 'XX', now() + pause_seconds, job_id)
  count('webhook:failed')
end
