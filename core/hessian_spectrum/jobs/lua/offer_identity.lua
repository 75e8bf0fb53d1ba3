-- KEYS[1]: identity of this Redis. KEYS[2]: identity that is being given to it. ARGV[1]: offer if there is none yet.
--
-- Returns the offer, or '' if this Redis already has an identity.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return ''
end
redis.call('SET', KEYS[2], ARGV[1], 'NX')
return redis.call('GET', KEYS[2])
