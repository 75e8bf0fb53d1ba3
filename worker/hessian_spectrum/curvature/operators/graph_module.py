"""Modules that run graphs and leave nothing behind in the process."""

import linecache

from torch import fx
from torch.fx.graph_module import _loader


def graph_module(graph: fx.Graph) -> fx.GraphModule:
    """A module of this graph, without parameters.

    torch keeps the source of every module for tracebacks, about six kilobytes, as long as the process lives, and a
    worker creates several modules for each job.

    Args:
        graph: Graph to run.

    Returns:
        The module, whose source is not retained.
    """
    module = fx.GraphModule({}, graph)
    source = type(module).forward.__code__.co_filename
    _loader.eval_cache.pop(source, None)
    linecache.cache.pop(source, None)
    return module
