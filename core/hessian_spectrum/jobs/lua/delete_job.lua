--- @include "job"
-- Deletes a job that has ended.
--
-- Returns {outcome, digest of a result that no other job has, or ''}; the outcome is `deleted`, `active` or `missing`.
local state = field('state')
if not state then
  return {'missing', ''}
end
if not ENDED[state] then
  return {'active', ''}
end
local digest = unlink_result()
remove_from_index('all')
for_each_index(state, remove_from_index)
for_each_tag(remove_from_index)
account_bytes('records', 'record_bytes', -1)
account_bytes('requests', 'request_bytes', -1)  -- if a worker of an earlier version ended the job
redis.call('ZREM', index_prefix .. 'with-result', job_id)
redis.call('ZREM', index_prefix .. 'without-result', job_id)
if field('receiver') then
  redis.call('ZREM', WEBHOOKS .. field('receiver'), job_id)
end
redis.call('DEL', job_key, REQUEST .. job_id, EVENTS .. job_id)
return {'deleted', digest}
