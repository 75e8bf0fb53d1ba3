"""Every operator computes what the reference of the ONNX project says, on its own cases of single nodes."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hessian_spectrum.programs.program import ProgramError
from hessian_spectrum.service.uploads.onnx.operators import LOWERED, SEQUENCE_OPERATORS
from hessian_spectrum.service.uploads.onnx_program import OLDEST
from tests.fixtures.exported import loaded, stored_onnx

WITHOUT_CASES = SEQUENCE_OPERATORS | {
    "SequenceConstruct",
    "SplitToSequence",
    "GRU",
    "IsInf",
    "IsNaN",
    "Cast",
    "CastLike",
}
"""Operators of which no case can be read: they return sequences, are of another kind of GRU, or have NaN as a constant.

Casts are between types that do not exist here. Networks have these operators.
"""

UNDECIDED = {
    "test_top_k_same_values": "equal entries have an order of their own",
    "test_top_k_same_values_largest": "equal entries have an order of their own",
    "test_top_k_same_values_2d": "equal entries have an order of their own",
}

UNREADABLE = ("operators that cannot be used", "UINT", "STRING", "holds NaN", "this server reads versions")
"""Parts of the refusals that there may be."""


class Case:
    """A model of one node with its inputs, and one of its results."""

    def __init__(self, name: str, model: onnx.ModelProto, inputs: list[Any], index: int, expected: Any) -> None:
        self.name, self.model, self.inputs, self.index = name, model, inputs, index
        self.expected = np.asarray(expected)

    def file(self) -> bytes:
        """A network y = node(initialisers) + w x, all entries of the node side by side."""
        body = self.model.graph
        initializers = [
            *body.initializer,
            *(
                numpy_helper.from_array(np.asarray(value), argument.name)
                for argument, value in zip(body.input, self.inputs, strict=False)
            ),
            numpy_helper.from_array(np.array([1, -1]), "own_shape"),
            numpy_helper.from_array(np.ones(1, np.float32), "own_weight"),
        ]
        nodes = [
            *body.node,
            helper.make_node("Cast", [body.output[self.index].name], ["own_real"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["own_real", "own_shape"], ["own_row"]),
            helper.make_node("Mul", ["own_x", "own_weight"], ["own_product"]),
            helper.make_node("Add", ["own_row", "own_product"], ["own_y"]),
        ]
        x = helper.make_tensor_value_info("own_x", TensorProto.FLOAT, [1, 1])
        y = helper.make_tensor_value_info("own_y", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", [x], [y], initializers)
        versions = [helper.make_opsetid("", self._version())]
        return bytes(helper.make_model(graph, opset_imports=versions).SerializeToString())

    def _version(self) -> int:
        """The version of the case, or the oldest one that is read if the operator is the same there."""
        (version,) = (each.version for each in self.model.opset_import if each.domain == "")
        op = self.model.graph.node[0].op_type
        is_same = version < OLDEST and onnx.defs.get_schema(op, OLDEST).since_version <= version
        return OLDEST if is_same else int(version)

    def values(self) -> tuple[np.ndarray[Any, Any] | None, str]:
        """What the program computes, or why the file is refused."""
        try:
            model = loaded(stored_onnx(self.file()))
        except ProgramError as error:
            return None, str(error)
        parameters = model.initial_parameters(torch.Generator(), torch.float64, torch.device("cpu"))
        return np.asarray(model(parameters, torch.zeros(1, 1, dtype=torch.float64)).numpy().ravel()), ""


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    from onnx.backend.test.case.node import collect_testcases

    found = defaultdict(list)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for each in collect_testcases(None):
            nodes = [] if each.model is None else each.model.graph.node
            if len(nodes) == 1 and nodes[0].domain == "":
                found[nodes[0].op_type].extend(_results(each))
    return found


def _results(case: Any) -> Iterator[Case]:
    for inputs, outputs in case.data_sets:
        for index, expected in enumerate(outputs):
            is_array = isinstance(expected, (np.ndarray, np.generic))
            if is_array and expected.dtype.kind in "fiub" and expected.size and case.name not in UNDECIDED:
                yield Case(case.name, case.model, inputs, index, expected)


@pytest.mark.parametrize("op", sorted(LOWERED.keys() - WITHOUT_CASES))
def test_operator(op: str, cases: dict[str, list[Case]]) -> None:
    num_right = 0
    for case in cases[op]:
        values, refusal = case.values()
        if values is None:
            assert any(each in refusal for each in UNREADABLE), refusal
            continue
        expected = case.expected.astype(np.float64).ravel()
        # the values of some cases are written with four digits, those of others in half precision
        tolerance = 1e-3 if case.expected.dtype == np.float16 else 1e-4
        np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance, err_msg=case.name)
        num_right += 1
    assert num_right
