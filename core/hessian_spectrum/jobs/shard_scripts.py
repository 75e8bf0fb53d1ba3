"""The steps of a shard's life as Lua, on fields `shard:<index>:<name>` of the job's own record.

Every script takes KEYS[1] = hash of the job. Who holds a shard has written its token there: the token of the job's
lease, and then the shard is held as long as the job is; or one of another worker, and then until a time. A script may
be sent twice, where its answer was lost: who holds a shard already is given that one.
"""

_SHARDS = """
local function now() local t = redis.call('TIME'); return t[1] + t[2] / 1e6 end
local function job(name) return redis.call('HGET', KEYS[1], name) end
local function field(i, name) return 'shard:' .. i .. ':' .. name end
local function shard(i, name) return job(field(i, name)) end
local function num_shards() return tonumber(job('shards') or 0) end
local function is_held(i)
  local token, until_time = shard(i, 'token'), shard(i, 'until')
  if not token then return false end
  if until_time then return tonumber(until_time) > now() end
  return token == job('token')
end
local function holds(token, i) return shard(i, 'token') == token and (shard(i, 'until') or is_held(i)) end
local function held_by(token)
  for i = 0, num_shards() - 1 do
    if holds(token, i) then return i end
  end
end
local function release(i) redis.call('HDEL', KEYS[1], field(i, 'token'), field(i, 'until')) end
-- {index or -1 for none or -2 for one that has lost too many workers, attempt at it, others that are free, setup}
local function take(token, seconds, most_losses)
  local found, free = nil, 0
  for i = 0, num_shards() - 1 do
    if not shard(i, 'done') and not is_held(i) then free = free + 1; found = found or i end
  end
  local held = held_by(token)
  if held then return {held, tonumber(shard(held, 'attempt')), free, job('shards_setup')} end
  if not found or job('state') ~= 'running' or job('shard_problem') then return {-1, 0, 0, ''} end
  if shard(found, 'until') then
    if tonumber(shard(found, 'losses') or 0) + 1 >= most_losses then return {-2, 0, 0, ''} end
    redis.call('HINCRBY', KEYS[1], field(found, 'losses'), 1)
  end
  release(found)
  redis.call('HSET', KEYS[1], field(found, 'token'), token)
  if token ~= job('token') then redis.call('HSET', KEYS[1], field(found, 'until'), now() + seconds) end
  return {found, redis.call('HINCRBY', KEYS[1], field(found, 'attempt'), 1), free - 1, job('shards_setup')}
end
"""

OPEN = (
    _SHARDS
    + """
-- ARGV[1]: token of the job, ARGV[2]: shards, ARGV[3]: what their results depend on, ARGV[4]: what computes,
-- ARGV[5]: losses. What was done of shards that depend on something else is forgotten. Returns as `take`, or -3 to a
-- stranger.
if job('token') ~= ARGV[1] then return {-3, 0, 0, ''} end
if job('shards_setup') ~= ARGV[3] or job('shards') ~= ARGV[2] then
  for i = 0, num_shards() - 1 do
    release(i)
    redis.call('HDEL', KEYS[1], field(i, 'done'), field(i, 'losses'), field(i, 'products'))
  end
  redis.call('HDEL', KEYS[1], 'shard_problem')
end
redis.call('HSET', KEYS[1], 'shards', ARGV[2], 'shards_setup', ARGV[3], 'shards_signature', ARGV[4])
return take(ARGV[1], 0, tonumber(ARGV[5]))
"""
)

TAKE = (
    _SHARDS
    + """
-- ARGV[1]: token, ARGV[2]: seconds, ARGV[3]: losses, ARGV[4]: what computes. Returns as `take`.
if job('shards_signature') ~= ARGV[4] then return {-1, 0, 0, ''} end
return take(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
"""
)

FINISH = (
    _SHARDS
    + """
-- ARGV[1]: token, ARGV[2]: seconds, ARGV[3]: losses, ARGV[4]: index of the shard, ARGV[5]: its products, ARGV[6]:
-- whether to take another. Returns as `take`, or -3 to a stranger.
if holds(ARGV[1], ARGV[4]) then
  release(ARGV[4])
  redis.call('HSET', KEYS[1], field(ARGV[4], 'done'), 1, field(ARGV[4], 'products'), ARGV[5])
elseif not shard(ARGV[4], 'done') then
  return {-3, 0, 0, ''}
elseif not held_by(ARGV[1]) then
  return {-1, 0, 0, ''}
end
if ARGV[6] == '0' then return {-1, 0, 0, ''} end
return take(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
"""
)

RENEW = (
    _SHARDS
    + """
-- ARGV[1]: token, ARGV[2]: seconds, ARGV[3]: index of the shard of which ARGV[4] products are done. Returns 1 if the
-- shard is to be gone on with; also while the job waits for its next worker.
local i = held_by(ARGV[1])
if not i or (job('state') ~= 'running' and job('state') ~= 'queued') or job('shard_problem') then return 0 end
redis.call('HSET', KEYS[1], field(i, 'until'), now() + ARGV[2])
if tonumber(ARGV[3]) == i then redis.call('HSET', KEYS[1], field(i, 'products'), ARGV[4]) end
return 1
"""
)

RELEASE = (
    _SHARDS
    + """
-- ARGV[1]: token, ARGV[2]: problem of the job, or ''. Returns 1, or 0 to a stranger.
local i = held_by(ARGV[1])
if not i then return 0 end
release(i)
if ARGV[2] ~= '' then redis.call('HSETNX', KEYS[1], 'shard_problem', ARGV[2]) end
return 1
"""
)

LOSE = (
    _SHARDS
    + """
-- ARGV[1]: how the tokens of a process begin that is gone, ARGV[2]: problem with which the job is to end, or '',
-- ARGV[3]: problem with which it ends only if the shard may lose no more workers, or ''. Its lease is over now.
for i = 0, num_shards() - 1 do
  if shard(i, 'until') and string.sub(shard(i, 'token') or '', 1, #ARGV[1]) == ARGV[1] then
    redis.call('HSET', KEYS[1], field(i, 'until'), 0)
    if ARGV[2] ~= '' then redis.call('HSETNX', KEYS[1], 'shard_problem', ARGV[2]) end
    if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'shard_trouble', ARGV[3]) end
  end
end
return 1
"""
)

REOPEN = (
    _SHARDS
    + """
-- ARGV[1]: token of the job, ARGV[2]: index of a shard whose result is lost. Returns 1, or 0 to a stranger.
if job('token') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], field(ARGV[2], 'done'))
return 1
"""
)
