--- @include "shard"
-- Ends the time of the shards of a process that died; its tokens begin with ARGV[1].
local problem = ARGV[2]       -- that the job is to end with, or ''
local last_problem = ARGV[3]  -- that the job ends with only if the shard may lose no more workers, or ''

for index = 0, last_index() do
  if get(index, 'until') and string.sub(get(index, 'token') or '', 1, #token) == token then
    redis.call('HSET', job_key, shard_field(index, 'until'), 0)
    if problem ~= '' then
      redis.call('HSETNX', job_key, 'shard_problem', problem)
    end
    if last_problem ~= '' then
      redis.call('HSET', job_key, 'shard_trouble', last_problem)
    end
  end
end
return 1
