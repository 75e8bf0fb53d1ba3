--- @include "job"
-- Writes queued jobs, or jobs that have succeeded already with a cached result: all of them or none.
--
-- Returns {outcome, ...}. The outcome is `created`, with the state of each job; `replayed` or `differs` if the
-- idempotency key belongs to jobs with these or other requests, with the ids of those that exist; or the quota that is
-- exhausted, such as `owner-jobs` or `all-records`. Only `created` writes anything.
-- The script may run twice for one call whose reply was lost; the second run changes nothing.
-- ARGV[1] is the id of the first job.
local common = cjson.decode(ARGV[2])  -- {idempotency_key, request_digest, idempotency_seconds, owner, limits}
local jobs = {}
for i = 3, #ARGV, 4 do
  local cached = ARGV[i + 2]  -- fields that a job with a cached result has beside the others, or ''
  jobs[#jobs + 1] = {id = ARGV[i], fields = cjson.decode(ARGV[i + 1]), cached = cached ~= '' and cjson.decode(cached),
    request = ARGV[i + 3]}    -- '' where it is stored in a file
end

-- The job that the functions of the include concern from now on.
local function choose(job)
  job_key, job_id = JOB .. job.id, job.id
end

local function users_of(job)
  return RESULT_USERS .. job.cached.result_digest
end

-- What the jobs need together.
local needed = {jobs = 0, requests = 0, records = 0}
for _, job in ipairs(jobs) do
  if job.cached and redis.call('SCARD', users_of(job)) == 0 then
    job.cached = false  -- the result has been deleted meanwhile
  end
  needed.records = needed.records + job.fields.record_bytes
  if not job.cached then
    needed.jobs = needed.jobs + 1
    needed.requests = needed.requests + job.fields.request_bytes
  end
end

local function num_stored(what, owner)
  if what == 'jobs' then
    return redis.call('ZCARD', index_prefix .. (owner and owner .. ':' or '') .. 'queued')
  end
  return redis.call('HGET', STORED_BYTES, what .. (owner and ':' .. owner or '')) or 0
end

local function exhausted_quota()
  for _, what in ipairs({'jobs', 'requests', 'records'}) do
    for _, whose in ipairs({'owner', 'all'}) do
      local limit, owner = common.limits[whose][what], whose == 'owner' and common.owner
      if limit and needed[what] > 0 and (owner or whose == 'all') and num_stored(what, owner) + needed[what] > limit then
        return whose .. '-' .. what
      end
    end
  end
end

local function state_of(job)
  choose(job)
  return field('cached') and 'succeeded' or 'queued'
end

-- Calls a function with each job; returns {outcome, what it returned for each}.
local function each_job(outcome, call)
  local reply = {outcome}
  for _, job in ipairs(jobs) do
    reply[#reply + 1] = call(job)
  end
  return reply
end

local function known_jobs()
  local known = redis.call('HMGET', common.idempotency_key, 'digest', 'job')
  local reply = {known[1] == common.request_digest and 'replayed' or 'differs'}
  for id in string.gmatch(known[2] or '', '%S+') do
    if redis.call('EXISTS', JOB .. id) == 1 then
      reply[#reply + 1] = id
    end
  end
  return #reply > 1 and reply
end

local function write(job)
  choose(job)
  for name, value in pairs(job.fields) do
    set(name, value)
  end
  for name, value in pairs(job.cached or {}) do
    set(name, value)
  end
  add_to_index('all')
  for_each_tag(add_to_index)
  account_bytes('records', 'record_bytes', 1)
  if job.request ~= '' and (field('keeps_request') or not job.cached) then
    redis.call('SET', REQUEST .. job_id, job.request)
  end
  if job.cached then
    unset('request_bytes', 'request_sha256', 'plan')
    link_result(users_of(job))
    change_state('none', 'succeeded')
  else
    account_bytes('requests', 'request_bytes', 1)
    set('published_at', now())
    change_state('none', 'queued')
  end
  publish_event()
  return job.cached and 'succeeded' or 'queued'
end

if redis.call('EXISTS', job_key) == 1 then
  return each_job('created', state_of)
end
local known = common.idempotency_key and known_jobs()
if known then
  return known
end
local quota = exhausted_quota()
if quota then
  return {quota}
end
if common.idempotency_key then
  local ids = {}
  for _, job in ipairs(jobs) do
    ids[#ids + 1] = job.id
  end
  redis.call('HSET', common.idempotency_key, 'digest', common.request_digest, 'job', table.concat(ids, ' '))
  redis.call('EXPIRE', common.idempotency_key, common.idempotency_seconds)
end
return each_job('created', write)
