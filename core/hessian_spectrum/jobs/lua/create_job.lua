--- @include "job"
-- Writes a queued job, or one that has succeeded already with a cached result.
--
-- Returns {outcome, id of the job}. The outcome is `created`; `replayed` or `differs` if the idempotency key belongs to
-- a job with this or another request; `gone` if the cached result is no longer there; or the quota that is exhausted,
-- such as `owner-jobs` or `all-records`. Only `created` writes anything.
-- The script may run twice for one call whose reply was lost; the second run changes nothing.
local request = ARGV[2]            -- '' where it is stored in a file
local idempotency_key = ARGV[3]    -- hash of the idempotency key, or ''
local request_digest = ARGV[4]
local idempotency_seconds = ARGV[5]
local result_users = ARGV[6]       -- set of the jobs with the cached result, or ''
local owner = ARGV[7]              -- or ''
local limits = {owner = {jobs = ARGV[8], requests = ARGV[9], records = ARGV[10]},
  all = {jobs = ARGV[11], requests = ARGV[12], records = ARGV[13]}}  -- each a number, or ''
local fields = {}
for i = 14, #ARGV, 2 do
  fields[ARGV[i]] = ARGV[i + 1]
end

local function has_too_many_jobs(index, limit)
  return limit ~= '' and redis.call('ZCARD', index) >= tonumber(limit)
end

local function has_too_many_bytes(name, size, limit)
  return limit ~= '' and (redis.call('HGET', STORED_BYTES, name) or 0) + (size or 0) > tonumber(limit)
end

local function exhausted_quota()
  local of_owner, of_all = limits.owner, limits.all
  if result_users == '' then
    if owner ~= '' and has_too_many_jobs(index_prefix .. owner .. ':queued', of_owner.jobs) then
      return 'owner-jobs'
    end
    if has_too_many_jobs(index_prefix .. 'queued', of_all.jobs) then
      return 'all-jobs'
    end
    if owner ~= '' and has_too_many_bytes('requests:' .. owner, fields.request_bytes, of_owner.requests) then
      return 'owner-requests'
    end
    if has_too_many_bytes('requests', fields.request_bytes, of_all.requests) then
      return 'all-requests'
    end
  end
  if owner ~= '' and has_too_many_bytes('records:' .. owner, fields.record_bytes, of_owner.records) then
    return 'owner-records'
  end
  if has_too_many_bytes('records', fields.record_bytes, of_all.records) then
    return 'all-records'
  end
end

if redis.call('EXISTS', job_key) == 1 then
  return {'created', job_id}
end
if idempotency_key ~= '' then
  local known = redis.call('HMGET', idempotency_key, 'digest', 'job')
  if known[2] and redis.call('EXISTS', JOB .. known[2]) == 1 then
    return {known[1] == request_digest and 'replayed' or 'differs', known[2]}
  end
end
if result_users ~= '' and redis.call('SCARD', result_users) == 0 then
  return {'gone', ''}
end
local quota = exhausted_quota()
if quota then
  return {quota, ''}
end
if idempotency_key ~= '' then
  redis.call('HSET', idempotency_key, 'digest', request_digest, 'job', job_id)
  redis.call('EXPIRE', idempotency_key, idempotency_seconds)
end
for name, value in pairs(fields) do
  set(name, value)
end
add_to_index('all')
for_each_tag(add_to_index)
account_bytes('records', 'record_bytes', 1)
if result_users ~= '' then
  unset('request_bytes')
  link_result(result_users)
  change_state('none', 'succeeded')
else
  if request ~= '' then
    redis.call('SET', REQUEST .. job_id, request)
  end
  account_bytes('requests', 'request_bytes', 1)
  set('published_at', now())
  change_state('none', 'queued')
end
publish_event()
return {'created', job_id}
