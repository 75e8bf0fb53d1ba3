--- @include "clock"
-- The shards of one job, kept in fields `shard:<index>:<name>` of the job's own hash KEYS[1].
--
-- ARGV[1]: token. Whoever holds a shard has written its token to the shard: either the token of the job's lease, and
-- the shard is held as long as the job is; or the token of another worker, and the shard is held until a time.
-- A script may run twice for one call whose reply was lost; who holds a shard already is then given that one.

local job_key, token = KEYS[1], ARGV[1]
local NONE, POISONED, STRANGER = {-1, 0, 0, ''}, {-2, 0, 0, ''}, {-3, 0, 0, ''}

local function job_field(name)
  return redis.call('HGET', job_key, name)
end

local function shard_field(index, name)
  return 'shard:' .. index .. ':' .. name
end

local function get(index, name)
  return job_field(shard_field(index, name))
end

local function last_index()
  return tonumber(job_field('shards') or 0) - 1
end

local function is_held(index)
  local holder, held_until = get(index, 'token'), get(index, 'until')
  if not holder then
    return false
  end
  if held_until then
    return tonumber(held_until) > now()
  end
  return holder == job_field('token')
end

-- Whether the token holds this shard, or held it until its time ran out and nobody else has claimed it since.
local function holds(index)
  return get(index, 'token') == token and (get(index, 'until') or is_held(index))
end

local function held_index()
  for index = 0, last_index() do
    if holds(index) then
      return index
    end
  end
end

local function release(index)
  redis.call('HDEL', job_key, shard_field(index, 'token'), shard_field(index, 'until'))
end

-- Claims the first free shard.
-- Returns {index, attempt at it, further free shards, fingerprint}, NONE, or POISONED if the shard lost too many workers.
local function claim_free(seconds, max_losses)
  local first, num_free = nil, 0
  for index = 0, last_index() do
    if not get(index, 'done') and not is_held(index) then
      num_free = num_free + 1
      first = first or index
    end
  end
  local held = held_index()
  if held then
    return {held, tonumber(get(held, 'attempt')), num_free, job_field('shards_setup')}
  end
  if not first or job_field('state') ~= 'running' or job_field('shard_problem') then
    return NONE
  end
  if get(first, 'until') then
    if tonumber(get(first, 'losses') or 0) + 1 >= max_losses then
      return POISONED
    end
    redis.call('HINCRBY', job_key, shard_field(first, 'losses'), 1)
  end
  release(first)
  redis.call('HSET', job_key, shard_field(first, 'token'), token)
  if token ~= job_field('token') then
    redis.call('HSET', job_key, shard_field(first, 'until'), now() + seconds)
  end
  local attempt = redis.call('HINCRBY', job_key, shard_field(first, 'attempt'), 1)
  return {first, attempt, num_free - 1, job_field('shards_setup')}
end
