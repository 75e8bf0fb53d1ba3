-- Counters over all jobs, each changed in the same script as the job. Needs a function now().

local function count(name, number)
  redis.call('HINCRBYFLOAT', COUNTERS, name, number or 1)
end

-- Adds a duration to a histogram: each is counted under the first bound that it does not exceed.
local function observe(name, seconds)
  count(name .. ':sum', seconds)
  for _, bound in ipairs(DURATION_BOUNDS) do
    if seconds <= tonumber(bound) then
      return count(name .. ':' .. bound)
    end
  end
  count(name .. ':+Inf')
end

local function count_transition(job_key, from, to, time)
  if from == 'none' then
    count(to == 'queued' and 'accepted' or 'cached')
  end
  if from == 'queued' then
    observe('wait', time - (redis.call('HGET', job_key, 'moved_at') or time))
  end
  if (from == 'running' or from == 'cancelling') and to ~= 'cancelling' then
    observe('run', time - (redis.call('HGET', job_key, 'claimed_at') or time))
  end
  if to == 'running' then
    count('attempts')
    redis.call('HSET', job_key, 'claimed_at', time)
  elseif to ~= 'queued' and to ~= 'cancelling' then
    count('ended:' .. to)
  end
  redis.call('HSET', job_key, 'moved_at', time)
end
