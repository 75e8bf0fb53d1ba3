--- @include "clock"
--- @include "counters"
-- The record of one job, its indexes by state, and its events.
--
-- KEYS[1]: hash of the job. KEYS[2]: prefix of the indexes by state. ARGV[1]: id of the job.
-- A job with an owner is listed in the owner's indexes, too. A script that changes what clients see of the job ends
-- with publish_event().

local job_key, index_prefix, job_id = KEYS[1], KEYS[2], ARGV[1]

local function field(name)
  return redis.call('HGET', job_key, name)
end

local function set(...)
  redis.call('HSET', job_key, ...)
end

local function unset(...)
  redis.call('HDEL', job_key, ...)
end

local function owner_index(name)
  local owner = field('owner')
  return owner and (index_prefix .. owner .. ':' .. name)
end

local function add_to_index(name)
  redis.call('ZADD', index_prefix .. name, 0, job_id)
  if owner_index(name) then
    redis.call('ZADD', owner_index(name), 0, job_id)
  end
end

local function remove_from_index(name)
  redis.call('ZREM', index_prefix .. name, job_id)
  if owner_index(name) then
    redis.call('ZREM', owner_index(name), job_id)
  end
end

-- Calls the function with the name of the index of each tag of the job.
local function for_each_tag(call)
  for name, value in pairs(cjson.decode(field('tags') or '{}')) do
    call(TAG_INDEX .. string.sub(redis.sha1hex(name .. ':' .. value), 1, TAG_DIGITS))
  end
end

-- Calls the function with the name of each index of the jobs in this state: of all of them, and of those with each tag.
local function for_each_index(state, call)
  call(state)
  for_each_tag(function(tag)
    call(tag .. ':' .. state)
  end)
end

-- Adds the size in this field of the job to the bytes that are stored, or subtracts it once if the sign is -1.
local function account_bytes(what, size_field, sign)
  local size = field(size_field)
  if not size then
    return
  end
  local owner = field('owner')
  for _, name in ipairs({what, owner and what .. ':' .. owner or nil}) do
    if redis.call('HINCRBY', STORED_BYTES, name, sign * size) == 0 then
      redis.call('HDEL', STORED_BYTES, name)
    end
  end
  if sign < 0 then
    unset(size_field)
  end
end

-- Replaces the interim result of the job by another, or by none if the digest is ''.
local function set_interim_result(digest)
  local old = field('interim_digest')
  if old then
    redis.call('SADD', UNUSED_RESULTS, old)
    unset('interim_digest')
  end
  if digest ~= '' then
    redis.call('SREM', UNUSED_RESULTS, digest)
    set('interim_digest', digest)
  end
end

local ENDED = {succeeded = true, failed = true, cancelled = true, expired = true}

local function change_state(from, to)
  for_each_index(from, remove_from_index)
  for_each_index(to, add_to_index)
  count_transition(job_key, from, to, now())
  set('state', to)
  redis.call('ZREM', index_prefix .. 'with-result', job_id)
  if ENDED[to] then
    if not field('keeps_request') then
      redis.call('DEL', REQUEST .. job_id)
    end
    account_bytes('requests', 'request_bytes', -1)
    unset('request_sha256', 'plan')
    set_interim_result('')
    redis.call('ZADD', index_prefix .. (to == 'succeeded' and 'with-result' or 'without-result'), now(), job_id)
    if field('receiver') and to ~= 'expired' then
      redis.call('ZADD', WEBHOOKS .. field('receiver'), now(), job_id)
    end
  end
end

-- Fields that no event shows: they are no client's business, or large.
local PRIVATE = {token = true, lease_until = true, published_at = true, losses = true,
  signed_at = true, run_seconds = true, moved_at = true, claimed_at = true,
  request_id = true, question = true, answers = true, trouble = true, crashed_by = true,
  shard_trouble = true, request_bytes = true, request_sha256 = true, record_bytes = true, tags = true, plan = true,
  keeps_request = true, webhook = true, webhook_attempts = true, receiver = true}

-- Appends the record as it is now to the events of the job, and the id to the changes of all jobs.
local function publish_event()
  local record, event = redis.call('HGETALL', job_key), {}
  for i = 1, #record, 2 do
    if not PRIVATE[record[i]] then
      event[#event + 1] = record[i]
      event[#event + 1] = record[i + 1]
    end
  end
  local stream = EVENTS .. job_id
  redis.call('XADD', stream, 'MAXLEN', '~', 100, '*', unpack(event))
  redis.call('XADD', CHANGES, 'MAXLEN', '~', 10000, '*', 'job', job_id)
  if ENDED[field('state')] then
    redis.call('EXPIRE', stream, EVENT_SECONDS)
  end
end

-- Notes that the job has its result; `users` is the set of all jobs with that result.
local function link_result(users)
  local digest = field('result_digest')
  redis.call('SADD', users, job_id)
  redis.call('ZADD', RESULTS, now(), digest)
  redis.call('SREM', UNUSED_RESULTS, digest)
end

-- Takes the result from the job. Returns its digest if no other job has it; then it leaves the cache, too.
local function unlink_result()
  local digest = field('result_digest')
  if not digest then
    return ''
  end
  local users = RESULT_USERS .. digest
  redis.call('SREM', users, job_id)
  if redis.call('SCARD', users) > 0 then
    return ''
  end
  local cache_entry = field('answers')
  if cache_entry and redis.call('GET', cache_entry) == digest then
    redis.call('DEL', cache_entry)
  end
  redis.call('ZREM', RESULTS, digest)
  redis.call('SADD', UNUSED_RESULTS, digest)
  return digest
end
