"""Modules that run graphs, and nothing that outlives them."""

import linecache

from torch import fx
from torch.fx.graph_module import _loader


def graph_module(graph: fx.Graph) -> fx.GraphModule:
    """A module of this graph and of no parameters.

    torch keeps the source of every module for tracebacks, some six kilobytes, as long as the process lives; a worker
    makes several for each job.
    """
    module = fx.GraphModule({}, graph)
    source = type(module).forward.__code__.co_filename
    _loader.eval_cache.pop(source, None)
    linecache.cache.pop(source, None)
    return module
