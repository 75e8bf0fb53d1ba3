--- @include "job"
-- Upgrades a job that an earlier version created: lists it in the indexes of its tags and counts its bytes.
local record_bytes, tag_bytes = ARGV[2], ARGV[3]  -- of a record without tags, and of a tag beside its text

if redis.call('EXISTS', job_key) == 0 then
  return
end
for_each_tag(add_to_index)
for_each_index(field('state'), add_to_index)
if redis.call('HEXISTS', job_key, 'record_bytes') == 1 then
  return
end
local num_tags = 0
for_each_tag(function()
  num_tags = num_tags + 1
end)
set('record_bytes', record_bytes + #(field('tags') or '{}') + num_tags * tag_bytes)
account_bytes('records', 'record_bytes', 1)
local request_bytes = redis.call('STRLEN', REQUEST .. job_id)
if request_bytes > 0 then
  set('request_bytes', request_bytes)
  account_bytes('requests', 'request_bytes', 1)
end
