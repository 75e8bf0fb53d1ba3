-- Returns the memory section of INFO, or nothing to a user who may not read it; Redis then logs no refusal.
if redis.acl_check_cmd('info') then
  return redis.call('INFO', 'memory')
end
