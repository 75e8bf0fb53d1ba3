"""Programs as files: a safetensors file of their numbers and of the graph as text, whose header describes them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from hessian_spectrum.programs.cost import program_cost
from hessian_spectrum.programs.index_ranges import index_ranges
from hessian_spectrum.programs.operators import base_name
from hessian_spectrum.programs.program import Program, Value
from hessian_spectrum.storage.artifact_files import Arrays, NamedArray, pieces_with_metadata, read_metadata

GRAPH = "program:graph"
"""Name of the array of bytes that holds the graph as JSON; no parameter has a colon in its name."""

_DESCRIPTION = "program"


def program_pieces(program: Program, arrays: Arrays) -> Iterator[bytes]:
    """The file of a program, in pieces, equal for equal graphs with equal numbers.

    Args:
        program: The graph.
        arrays: Arrays of its parameters and constants, by name.

    Returns:
        The pieces.
    """
    text = NamedArray("U8", np.frombuffer(program.to_json().encode(), np.uint8))
    return pieces_with_metadata({**arrays, GRAPH: text}, {_DESCRIPTION: json.dumps(_description(program))})


def read_description(file: BinaryIO) -> dict[str, Any]:
    """Fields of the `ProgramArtifact` of a file that was written here; it is read from its beginning."""
    metadata, _ = read_metadata(file)
    fields: dict[str, Any] = json.loads(metadata[_DESCRIPTION])
    return fields


def _description(program: Program) -> dict[str, Any]:
    num_rows = index_ranges(program)
    return {
        "source": program.source,
        "parameters": [
            {"name": each.name, "shape": list(each.value.shape), "trainable": each.is_trainable}
            for each in program.parameters
        ],
        "inputs": [{**_input(name, value), "num_rows": num_rows.get(name)} for name, value in program.inputs.items()],
        "output": _input(program.output, program.output_value),
        "num_samples": program.fixed_size,
        "num_calls": sum(1 for _ in program.calls()),
        "operators": sorted({base_name(call.op) for call in program.calls()}),
        **asdict(program_cost(program)),
    }


def _input(name: str, value: Value) -> dict[str, Any]:
    shape = [None if axis in value.dynamic else length for axis, length in enumerate(value.shape)]
    return {"name": name, "dtype": value.dtype, "shape": shape}
