"""The steps of a job's life as Lua: each happens as a whole or not at all, by the clock of Redis.

A script may be sent twice, where its answer was lost, and does then what it did or nothing.
Every script takes KEYS[1] = hash of the job, KEYS[2] = prefix of the indexes by state, ARGV[1] = id of the job.
A job with an owner is in an index of its owner's, too, wherever it is in one of all. A script that changes what callers
see of the job ends with `tell()`; jobs/events.py reads what that writes.
"""

import hashlib

from hessian_spectrum.jobs import counters

JOB = "spectrum:job:"
"""Prefix of the records, one hash for each job."""

EVENTS = "spectrum:events:"
"""Prefix of the streams of events, one for each job; an entry holds all fields that change and are not private."""

REQUESTS = "spectrum:request:"
"""Prefix of the requests that are no file of their own, each kept until its job ends."""

BYTES = "spectrum:bytes"
"""Hash of what is kept: `requests` of jobs that have not ended and `records`; `requests:OWNER` and so on of each."""

TAG = "tag:"
"""Before the digest of a tag: name of the index of the jobs that have it."""

CHANGES = "spectrum:changes"
"""Stream that says which jobs changed."""

RESULTS = "spectrum:results"
"""Sorted set of the digests of all results, by the end of the last job that uses each."""

UNWANTED = "spectrum:unwanted-results"
"""Set of digests of results that no job uses any more and whose files may still be there."""

SECONDS_OF_EVENTS = 3600
"""That the events of a job which ended are kept."""

_TAG_DIGITS = 16


def tag_index(name: str, value: str) -> str:
    """Name of the index of the jobs with this tag; others may be in it, too, if rarely."""
    return TAG + hashlib.sha1(f"{name}:{value}".encode(), usedforsecurity=False).hexdigest()[:_TAG_DIGITS]


MOVE = (
    counters.LUA
    + """
local function now() local t = redis.call('TIME'); return t[1] + t[2] / 1e6 end
local function of_owner(name)
  local owner = redis.call('HGET', KEYS[1], 'owner')
  return owner and (KEYS[2] .. owner .. ':' .. name)
end
local function enlist(name)
  redis.call('ZADD', KEYS[2] .. name, 0, ARGV[1])
  if of_owner(name) then redis.call('ZADD', of_owner(name), 0, ARGV[1]) end
end
local function strike(name)
  redis.call('ZREM', KEYS[2] .. name, ARGV[1])
  if of_owner(name) then redis.call('ZREM', of_owner(name), ARGV[1]) end
end
"""
    + f"""
local function each_tag(change)
  for name, value in pairs(cjson.decode(redis.call('HGET', KEYS[1], 'tags') or '{{}}')) do
    change('{TAG}' .. string.sub(redis.sha1hex(name .. ':' .. value), 1, {_TAG_DIGITS}))
  end
end
local function weigh(what, field, sign)
  -- Adds what the field of the job says to what is kept, or takes it away, once.
  local size = redis.call('HGET', KEYS[1], field)
  if not size then return end
  local owner = redis.call('HGET', KEYS[1], 'owner')
  for _, name in ipairs({{what, owner and what .. ':' .. owner or nil}}) do
    if redis.call('HINCRBY', '{BYTES}', name, sign * size) == 0 then redis.call('HDEL', '{BYTES}', name) end
  end
  if sign < 0 then redis.call('HDEL', KEYS[1], field) end
end
local ended = {{succeeded = true, failed = true, cancelled = true, expired = true}}
local function move(from, to)
  strike(from)
  enlist(to)
  count_move(from, to, now())
  redis.call('HSET', KEYS[1], 'state', to)
  redis.call('ZREM', KEYS[2] .. 'with-result', ARGV[1])
  if ended[to] then
    redis.call('DEL', '{REQUESTS}' .. ARGV[1])
    weigh('requests', 'request_bytes', -1)
    redis.call('HDEL', KEYS[1], 'request_sha256')
    redis.call('ZADD', KEYS[2] .. (to == 'succeeded' and 'with-result' or 'without-result'), now(), ARGV[1])
  end
end
local private = {{token = true, lease_until = true, published_at = true, losses = true,
  signed_at = true, run_seconds = true, moved_at = true, claimed_at = true,
  request_id = true, question = true, answers = true, trouble = true, crashed_by = true,
  shard_trouble = true, request_bytes = true, request_sha256 = true, record_bytes = true, tags = true}}
local function tell()
  local record, event = redis.call('HGETALL', KEYS[1]), {{}}
  for i = 1, #record, 2 do
    if not private[record[i]] then
      event[#event + 1] = record[i]
      event[#event + 1] = record[i + 1]
    end
  end
  local stream = '{EVENTS}' .. ARGV[1]
  redis.call('XADD', stream, 'MAXLEN', '~', 100, '*', unpack(event))
  redis.call('XADD', '{CHANGES}', 'MAXLEN', '~', 10000, '*', 'job', ARGV[1])
  if ended[redis.call('HGET', KEYS[1], 'state')] then redis.call('EXPIRE', stream, {SECONDS_OF_EVENTS}) end
end
local function use(users)
  local digest = redis.call('HGET', KEYS[1], 'result_digest')
  redis.call('SADD', users, ARGV[1])
  redis.call('ZADD', '{RESULTS}', now(), digest)
  redis.call('SREM', '{UNWANTED}', digest)
end
local function release(users)
  -- Returns the digest if no other job has the result; then it answers no question either.
  local digest = redis.call('HGET', KEYS[1], 'result_digest')
  if not digest then return '' end
  redis.call('SREM', users .. digest, ARGV[1])
  if redis.call('SCARD', users .. digest) > 0 then return '' end
  local answers = redis.call('HGET', KEYS[1], 'answers')
  if answers and redis.call('GET', answers) == digest then redis.call('DEL', answers) end
  redis.call('ZREM', '{RESULTS}', digest)
  redis.call('SADD', '{UNWANTED}', digest)
  return digest
end
"""
)

CREATE = (
    MOVE
    + f"""
local BYTES = '{BYTES}'
"""
    + """
-- ARGV[2]: key of the request, ARGV[3]: the request, or '' where it is a file, ARGV[4]: key of what a caller's
-- idempotency key stands for, or '', ARGV[5]: digest of the request, ARGV[6]: seconds that it is remembered, ARGV[7]:
-- prefix of jobs' keys, ARGV[8]: set of the jobs with the result that answers this one, too, or '', ARGV[9]: index of
-- the owner's queued jobs, or '', ARGV[10]: owner or '', ARGV[11..16]: limits of the owner and of all, or '': of queued
-- jobs, of bytes of requests, of bytes of records, ARGV[17..]: the record's fields and values.
-- Returns {outcome, id of the job}; with a key that is known and whose job is there, with a result that is gone, or
-- where too much is kept, nothing is written.
if redis.call('EXISTS', KEYS[1]) == 1 then return {'created', ARGV[1]} end
local fields = {}
for i = 17, #ARGV, 2 do fields[ARGV[i]] = ARGV[i + 1] end
local function is_full(index, limit) return limit ~= '' and redis.call('ZCARD', index) >= tonumber(limit) end
local function is_heavy(what, size, limit)
  return limit ~= '' and (redis.call('HGET', BYTES, what) or 0) + (size or 0) > tonumber(limit)
end
local function refusal()
  local owner = ARGV[10]
  if ARGV[8] == '' then
    if owner ~= '' and is_full(ARGV[9], ARGV[11]) then return 'owner-jobs' end
    if is_full(KEYS[2] .. 'queued', ARGV[12]) then return 'all-jobs' end
    if owner ~= '' and is_heavy('requests:' .. owner, fields.request_bytes, ARGV[13]) then return 'owner-requests' end
    if is_heavy('requests', fields.request_bytes, ARGV[14]) then return 'all-requests' end
  end
  if owner ~= '' and is_heavy('records:' .. owner, fields.record_bytes, ARGV[15]) then return 'owner-records' end
  if is_heavy('records', fields.record_bytes, ARGV[16]) then return 'all-records' end
end
if ARGV[4] ~= '' then
  local known = redis.call('HMGET', ARGV[4], 'digest', 'job')
  if known[2] and redis.call('EXISTS', ARGV[7] .. known[2]) == 1 then
    return {known[1] == ARGV[5] and 'replayed' or 'differs', known[2]}
  end
end
if ARGV[8] ~= '' and redis.call('SCARD', ARGV[8]) == 0 then return {'gone', ''} end
local refused = refusal()
if refused then return {refused, ''} end
if ARGV[4] ~= '' then
  redis.call('HSET', ARGV[4], 'digest', ARGV[5], 'job', ARGV[1])
  redis.call('EXPIRE', ARGV[4], ARGV[6])
end
for field, value in pairs(fields) do redis.call('HSET', KEYS[1], field, value) end
enlist('all')
each_tag(enlist)
weigh('records', 'record_bytes', 1)
if ARGV[8] ~= '' then
  redis.call('HDEL', KEYS[1], 'request_bytes', 'request_sha256')
  use(ARGV[8])
  move('none', 'succeeded')
else
  if ARGV[3] ~= '' then redis.call('SET', ARGV[2], ARGV[3]) end
  weigh('requests', 'request_bytes', 1)
  redis.call('HSET', KEYS[1], 'published_at', now())
  move('none', 'queued')
end
tell()
return {'created', ARGV[1]}
"""
)

CLAIM = (
    MOVE
    + """
-- ARGV[2]: token of the new lease, ARGV[3]: its seconds, ARGV[4]: time as text.
-- Returns {attempt, seconds that earlier attempts ran, signal of which one of them crashed or ''}; the attempt is 0 if
-- refused.
local function claimed(attempt)
  return {attempt, redis.call('HGET', KEYS[1], 'run_seconds') or '0', redis.call('HGET', KEYS[1], 'crashed_by') or ''}
end
if redis.call('HGET', KEYS[1], 'token') == ARGV[2] then
  return claimed(tonumber(redis.call('HGET', KEYS[1], 'attempt')))
end
if redis.call('HGET', KEYS[1], 'state') ~= 'queued' then return {0, '0', ''} end
move('queued', 'running')
redis.call('HSETNX', KEYS[1], 'started_at', ARGV[4])
redis.call('HDEL', KEYS[1], 'trouble')
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'lease_until', now() + ARGV[3], 'signed_at', now())
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
tell()
return claimed(attempt)
"""
)

RENEW = (
    MOVE
    + """
-- ARGV[2]: token, ARGV[3]: seconds, ARGV[4]: progress or '', ARGV[5]: products computed since the last sign.
-- Returns the state, or 'lost' to a stranger.
-- The time since the last sign counts as run, whatever then becomes of the attempt.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 'lost' end
redis.call('HDEL', KEYS[1], 'nothing')  -- a Redis that is out of memory lets a script go on that began so
local time = now()
redis.call('HINCRBYFLOAT', KEYS[1], 'run_seconds', time - (redis.call('HGET', KEYS[1], 'signed_at') or time))
redis.call('HSET', KEYS[1], 'lease_until', time + ARGV[3], 'signed_at', time)
if ARGV[5] ~= '0' then count('products', ARGV[5]) end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'progress', ARGV[4])
  tell()
end
return redis.call('HGET', KEYS[1], 'state')
"""
)

FINISH = (
    MOVE
    + """
-- ARGV[2]: token, ARGV[3]: final state, ARGV[4]: time, ARGV[5]: progress, error or result_digest, ARGV[6]: its value,
-- ARGV[7]: set of the jobs with that result, or '', ARGV[8]: prefix of the results by question, with the version of
-- the code that computed, or ''. A job that was cancelled ends as cancelled.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 'lost' end
local state, final = redis.call('HGET', KEYS[1], 'state'), ARGV[3]
if state == 'cancelling' then final = 'cancelled' end
move(state, final)
redis.call('HSET', KEYS[1], 'finished_at', ARGV[4])
redis.call('HDEL', KEYS[1], 'token', 'lease_until')
if final == ARGV[3] and ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[5], ARGV[6])
  if ARGV[7] ~= '' then use(ARGV[7]) end
  local question = redis.call('HGET', KEYS[1], 'question')
  if ARGV[8] ~= '' and question then
    redis.call('HSET', KEYS[1], 'answers', ARGV[8] .. question)
    redis.call('SET', ARGV[8] .. question, ARGV[6])
  end
end
tell()
return final
"""
)

GIVE_BACK = (
    MOVE
    + """
-- ARGV[2]: token, ARGV[3]: time as text, ARGV[4]: progress of a queued job. A worker that stops gives a job back; no
-- attempt is lost. Returns the state, or 'lost' to a stranger.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 'lost' end
local state, to = redis.call('HGET', KEYS[1], 'state'), 'queued'
if state == 'cancelling' then to = 'cancelled' end
redis.call('HDEL', KEYS[1], 'token', 'lease_until')
move(state, to)
if to == 'queued' then
  count('given_back')
  redis.call('HSET', KEYS[1], 'published_at', now(), 'progress', ARGV[4])
else
  redis.call('HSET', KEYS[1], 'finished_at', ARGV[3])
end
tell()
return to
"""
)

LEAVE = """
-- ARGV[2]: token, ARGV[3]: problem. The worker works on the job no more, because of this; its lease will run out. If it
-- is the last that the job may lose, the job fails with the problem. Returns the state, or 'lost' to a stranger.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 'lost' end
redis.call('HSET', KEYS[1], 'trouble', ARGV[3])
return redis.call('HGET', KEYS[1], 'state')
"""

LOSE = (
    MOVE
    + """
-- ARGV[2]: how the lease's token begins, ARGV[3]: time as text, ARGV[4]: problem with which the job ends, or '',
-- ARGV[5]: problem with which it ends only if this was the last worker that it may lose, or '', ARGV[6]: signal of
-- which the process crashed, or ''.
-- The process that held the lease is gone. Without a problem the lease is over now. Returns the state, or '' to others.
if string.sub(redis.call('HGET', KEYS[1], 'token') or '', 1, #ARGV[2]) ~= ARGV[2] then return '' end
local state = redis.call('HGET', KEYS[1], 'state')
if ARGV[4] == '' or state == 'cancelling' then
  redis.call('HSET', KEYS[1], 'lease_until', 0)
  if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'trouble', ARGV[5]) end
  if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'crashed_by', ARGV[6]) end
  return state
end
redis.call('HDEL', KEYS[1], 'token', 'lease_until')
move(state, 'failed')
redis.call('HSET', KEYS[1], 'finished_at', ARGV[3], 'error', ARGV[4])
tell()
return 'failed'
"""
)

CANCEL = (
    MOVE
    + """
-- ARGV[2]: time as text. A queued job ends at once, a running one when its worker sees it.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'queued' then
  move(state, 'cancelled')
  redis.call('HSET', KEYS[1], 'finished_at', ARGV[2])
  tell()
elseif state == 'running' then
  move(state, 'cancelling')
  tell()
end
return redis.call('HGET', KEYS[1], 'state') or ''
"""
)

RECOVER = (
    MOVE
    + """
-- ARGV[2]: workers that a job may lose, ARGV[3]: time as text, ARGV[4]: problem of a job that lost so many,
-- ARGV[5]: progress of a queued job.
-- A job whose lease ran out goes back to the queue, or ends if it was cancelled or has lost too many workers.
local state, lease = redis.call('HGET', KEYS[1], 'state'), redis.call('HGET', KEYS[1], 'lease_until')
if (state ~= 'running' and state ~= 'cancelling') or (lease and tonumber(lease) > now()) then return '' end
redis.call('HDEL', KEYS[1], 'token', 'lease_until')
local to = 'queued'
if state == 'cancelling' then to = 'cancelled'
elseif redis.call('HINCRBY', KEYS[1], 'losses', 1) >= tonumber(ARGV[2]) then to = 'failed' end
count('lease_losses')
if to == 'failed' then count('poisoned') end
move(state, to)
if to == 'queued' then
  redis.call('HSET', KEYS[1], 'published_at', 0, 'progress', ARGV[5])
else
  redis.call('HSET', KEYS[1], 'finished_at', ARGV[3])
  if to == 'failed' then redis.call('HSET', KEYS[1], 'error', redis.call('HGET', KEYS[1], 'trouble') or ARGV[4]) end
end
tell()
return to
"""
)

TAKE_UNPUBLISHED = (
    MOVE
    + """
-- ARGV[2]: seconds after which a message counts as lost, ARGV[3]: hash of the job whose message is next, or ''.
-- Returns 1 to the one caller that shall publish the job. Messages are taken in turn: one that is older than the next
-- does not wait any more. A recovered job has never been published.
if redis.call('HGET', KEYS[1], 'state') ~= 'queued' then return 0 end
local last = now()
if ARGV[3] ~= '' then last = tonumber(redis.call('HGET', ARGV[3], 'published_at') or 0) end
local published = tonumber(redis.call('HGET', KEYS[1], 'published_at'))
if published > 0 and published > last - ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'published_at', now())
return 1
"""
)

DELETE = (
    MOVE
    + """
-- ARGV[2]: prefix of the sets of jobs by result, ARGV[3]: key of the request, ARGV[4]: key of the events.
-- Returns {outcome, digest of a result that nobody needs any more}.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {'missing', ''} end
if state == 'queued' or state == 'running' or state == 'cancelling' then return {'active', ''} end
local digest = release(ARGV[2])
strike('all')
strike(state)
each_tag(strike)
weigh('records', 'record_bytes', -1)
weigh('requests', 'request_bytes', -1)  -- where a worker of an earlier version ended the job
redis.call('ZREM', KEYS[2] .. 'with-result', ARGV[1])
redis.call('ZREM', KEYS[2] .. 'without-result', ARGV[1])
redis.call('DEL', KEYS[1], ARGV[3], ARGV[4])
return {'deleted', digest}
"""
)

EXPIRE = (
    MOVE
    + """
-- ARGV[2]: prefix of the sets of jobs by result, ARGV[3]: problem that tells why. The job has a result no more.
-- Returns 1, or 0 if it had none.
if redis.call('HGET', KEYS[1], 'state') ~= 'succeeded' then return 0 end
release(ARGV[2])
redis.call('HDEL', KEYS[1], 'result_digest', 'answers')
redis.call('HSET', KEYS[1], 'error', ARGV[3])
move('succeeded', 'expired')
tell()
return 1
"""
)

END_TURN = """
-- KEYS[1]: whose turn it is, ARGV[1]: token of the one that ends it.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
