"""Files of a deployment (results, uploads, large requests, checkpoints of jobs) in a directory or an object store."""
