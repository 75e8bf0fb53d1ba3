-- KEYS[1]: identity of this Redis. KEYS[2]: the offer. ARGV[1]: the offer that the results directory now holds.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('DEL', KEYS[2])
