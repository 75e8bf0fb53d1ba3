"""Predicted cost of a computation, from plain numbers; without torch, so that a web service can ask before it queues.

Peak bytes are those of the parameters and of all that is computed from them, without the data: what a process grows by,
on a GPU what tensors hold. Predicted within 20 % where they are above 100 MiB: `benchmarks.cost`.
"""
