"""ONNX files that lie, that are too large once read, or that would run or open something."""

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
_PICKLE = b"cos\nsystem\n(S'touch /tmp/spectrum-hostile-canary'\ntR."


def array(name: str, values: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"node_{outputs}", **attributes)


def graph(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> GraphProto:
    """A graph from x (n, 3) to y, with a matrix w (3, 2)."""
    x = helper.make_tensor_value_info("x", FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", FLOAT, None)
    return helper.make_graph(list(nodes), "g", [x], [y], [array("w", np.ones((3, 2))), *initializers])


def model(body: GraphProto, version: int = 20, **fields: Any) -> ModelProto:
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", version)], **fields)


LINEAR = node("MatMul", "x w", "y")


def good() -> bytes:
    """The file that the others change."""
    return model(graph(LINEAR)).SerializeToString()


def changed(change: Callable[[ModelProto], Any]) -> bytes:
    message = model(graph(LINEAR))
    change(message)
    return message.SerializeToString()


def field(number: int, content: bytes) -> bytes:
    """A field of the protobuf format whose content has a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _first_array(**fields: Any) -> bytes:
    def change(message: ModelProto) -> None:
        tensor = message.graph.initializer[0]
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(tensor, name)[:]
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return changed(change)


def _external(location: str) -> bytes:
    def change(message: ModelProto) -> None:
        tensor = message.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return changed(change)


def _branch() -> bytes:
    inner = helper.make_graph([node("Identity", "w", "z")], "b", [], [helper.make_tensor_value_info("z", FLOAT, None)])
    choice = helper.make_node("If", ["c"], ["h"], name="choice", then_branch=inner, else_branch=inner)
    body = graph(choice, node("MatMul", "x h", "y"), initializers=(array("c", True, bool),))
    return model(body).SerializeToString()


def _loop(op: str) -> bytes:
    inner = helper.make_graph([], "b", [], [])
    loop = helper.make_node(op, ["t", "", "x"], ["h"], name="loop", body=inner)
    body = graph(loop, node("MatMul", "h w", "y"), initializers=(array("t", 2**62, np.int64),))
    return model(body).SerializeToString()


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))  # graph: node: attribute: graph
    return field(7, content)


def _unbounded(shape: list[int], *operators: onnx.NodeProto) -> bytes:
    body = graph(*operators, node("MatMul", "x w", "m"), initializers=(array("s", shape, np.int64),))
    return model(body).SerializeToString()


def _doubling(times: int) -> bytes:
    names = ["x", *(f"h{index}" for index in range(times))]
    nodes = [node("Concat", f"{before} {before}", after, axis=1) for before, after in pairwise(names)]
    body = graph(*nodes, node("ReduceSum", f"{names[-1]} a", "r"), node("MatMul", "x w", "m"), node("Add", "m r", "y"),
                 initializers=(array("a", [1], np.int64),))  # fmt: skip
    return model(body).SerializeToString()


def _squaring(times: int) -> bytes:
    names = ["s", *(f"h{index}" for index in range(times))]
    nodes = [node("Mul", f"{before} {before}", after) for before, after in pairwise(names)]
    body = graph(*nodes, node("Reshape", f"x {names[-1]}", "z"), node("MatMul", "z w", "y"),
                 initializers=(array("s", [2**31], np.int64),))  # fmt: skip
    return model(body).SerializeToString()


def _long_chain(count: int) -> bytes:
    names = ["x", *(f"h{index}" for index in range(count))]
    nodes = [node("Relu", before, after) for before, after in pairwise(names)]
    return model(graph(*nodes, node("MatMul", f"{names[-1]} w", "y"))).SerializeToString()


def _non_finite(value: float) -> bytes:
    return model(graph(LINEAR, initializers=(array("b", [value, 0]),))).SerializeToString()


def _lying_window(**attributes: Any) -> bytes:
    image = node("Reshape", "x s", "i")
    pool = node("MaxPool", "i", "p", **attributes)
    return _unbounded([0, 1, 3], image, pool, node("Flatten", "p", "y"))


def _attribute_of_code() -> bytes:
    call = helper.make_node("PythonOp", ["x"], ["h"], name="call", domain="ai.onnx.contrib", code="import os")
    return model(graph(call, node("MatMul", "h w", "y"))).SerializeToString()


def _function() -> bytes:
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [node("F", "a", "b")], [helper.make_opsetid("", 20)], []
    )  # calls itself
    return model(graph(LINEAR), functions=[function]).SerializeToString()


def _wrong_type(kind: Any, **fields: Any) -> bytes:
    attribute = AttributeProto(name="axis", type=kind, i=2**63 - 1, s=b"\xff\xfe", **fields)
    concat = node("Concat", "x x", "h")
    concat.attribute.append(attribute)
    return model(graph(concat, node("MatMul", "h w", "y"))).SerializeToString()


def _attribute_twice() -> bytes:
    softmax = node("Softmax", "x", "h", axis=1)
    softmax.attribute.append(helper.make_attribute("axis", 0))
    return model(graph(softmax, node("MatMul", "h w", "y"))).SerializeToString()


_FILES: dict[str, Callable[[], bytes]] = {
    "empty-message": lambda: b"\x08\x08",
    "pickle": lambda: _PICKLE,
    "zip": lambda: b"PK\x03\x04" + bytes(64),
    "text": lambda: b"onnx",
    "cut-off": lambda: good()[:-7],
    "length-beyond-the-end": lambda: b"\x3a\xff\xff\xff\xff\x0f" + bytes(32),
    "endless-number": lambda: b"\x08" + b"\xff" * 64,
    "groups": lambda: b"\x3b" * 100_000,
    "messages-nested": lambda: _nested(60),
    "messages-nested-deeply": lambda: _nested(5000),
    "a-million-empty-nodes": lambda: field(7, b"\x0a\x00" * 1_000_000),
    "a-million-empty-attributes": lambda: field(7, field(1, b"\x2a\x00" * 1_000_000)),
    "a-million-dimensions": lambda: field(7, field(5, field(1, b"\x01" * 1_000_000))),
    "numbers-as-a-list-of-16-mib": lambda: field(7, field(5, b"\x08\x80\x80\x04\x10\x07" + field(7, b"\x01" * 2**24))),
    "external-data": lambda: _external("/etc/passwd"),
    "external-data-of-a-parent": lambda: _external("../../../proc/self/environ"),
    "external-data-in-a-node": lambda: model(
        graph(
            node("Constant", "", "k", value=TensorProto(name="k", data_type=FLOAT, dims=[2], data_location=1)),
            node("MatMul", "x w", "m"),
            node("Add", "m k", "y"),
        )
    ).SerializeToString(),
    "array-longer-than-its-numbers": lambda: _first_array(dims=[3, 2**40]),
    "array-of-2-to-the-126": lambda: _first_array(dims=[2**62, 2**62, 4]),
    "array-of-negative-length": lambda: _first_array(dims=[-3, -2]),
    "array-shorter-than-its-numbers": lambda: _first_array(dims=[1, 2]),
    "array-of-strings": lambda: _first_array(data_type=TensorProto.STRING),
    "array-of-an-unknown-type": lambda: _first_array(data_type=4096),
    "array-of-complex-numbers": lambda: _first_array(data_type=TensorProto.COMPLEX64),
    "array-cut-off": lambda: _first_array(raw_data=bytes(23)),
    "array-of-many-axes": lambda: _first_array(dims=[1] * 100_000),
    "array-of-two-lists": lambda: _first_array(raw_data=b"", float_data=[1.0] * 6),
    "numbers-not-finite": lambda: _first_array(raw_data=struct.pack("<6f", *[float("nan")] * 6)),
    "constant-not-a-number": lambda: model(
        graph(
            node("Constant", "", "k", value=array("k", [np.nan, 1.0])),
            node("MatMul", "x w", "m"),
            node("Add", "m k", "y"),
        )
    ).SerializeToString(),
    "parameter-infinite": lambda: _first_array(raw_data=struct.pack("<6f", *[float("inf")] * 6)),
    "sparse-array": lambda: changed(
        lambda m: m.graph.sparse_initializer.add(
            dims=[2**62], values=array("v", [1.0]), indices=array("i", [0], np.int64)
        )
    ),
    "name-twice": lambda: model(graph(LINEAR, initializers=(array("w", np.ones((3, 2))),))).SerializeToString(),
    "result-twice": lambda: model(graph(LINEAR, node("Relu", "y", "y"))).SerializeToString(),
    "result-named-as-an-input": lambda: model(graph(node("Relu", "x", "x"), LINEAR)).SerializeToString(),
    "result-named-as-a-parameter": lambda: model(graph(node("Relu", "x", "w"), LINEAR)).SerializeToString(),
    "name-of-the-file-format": lambda: model(
        graph(node("MatMul", "x __metadata__", "y"), initializers=(array("__metadata__", np.ones((3, 2))),))
    ).SerializeToString(),
    "name-of-the-graph": lambda: model(
        graph(node("MatMul", "x program:graph", "y"), initializers=(array("program:graph", np.ones((3, 2))),))
    ).SerializeToString(),
    "name-of-control-characters": lambda: model(
        graph(node("MatMul", "x v\0\x1b", "y"), initializers=(array("v\0\x1b", np.ones((3, 2))),))
    ).SerializeToString(),
    "name-of-a-node-not-unicode": lambda: good().replace(b"node_y", b"node_\xff"),
    "name-of-half-a-surrogate-pair": lambda: (
        model(graph(node("MatMul", "x abc", "y"))).SerializeToString().replace(b"abc", b"\xed\xa0\x80")
    ),
    "cycle": lambda: model(
        graph(node("Add", "x b", "a"), node("Relu", "a", "b"), node("MatMul", "b w", "y"))
    ).SerializeToString(),
    "reads-itself": lambda: model(graph(node("Add", "x h", "h"), node("MatMul", "h w", "y"))).SerializeToString(),
    "reads-what-nothing-computes": lambda: model(graph(node("MatMul", "z w", "y"))).SerializeToString(),
    "no-output": lambda: changed(lambda m: m.graph.ClearField("output")),
    "no-input": lambda: changed(lambda m: m.graph.ClearField("input")),
    "two-outputs": lambda: changed(lambda m: m.graph.output.add(name="x")),
    "output-is-an-input": lambda: changed(lambda m: setattr(m.graph.output[0], "name", "x")),
    "output-is-a-parameter": lambda: changed(lambda m: setattr(m.graph.output[0], "name", "w")),
    "input-of-unknown-shape": lambda: changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
    "input-of-unknown-length": lambda: changed(
        lambda m: (
            m.graph.input[0].type.tensor_type.shape.dim[1].CopyFrom(onnx.TensorShapeProto.Dimension(dim_param="k"))
        )
    ),
    "input-of-huge-length": lambda: changed(
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**62)
    ),
    "input-that-is-a-sequence": lambda: changed(
        lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent()
    ),
    "operator-unknown": lambda: model(graph(node("Launder", "x", "h"), node("MatMul", "h w", "y"))).SerializeToString(),
    "operator-of-python": _attribute_of_code,
    "operators-of-version-6": lambda: model(graph(LINEAR), version=6).SerializeToString(),
    "operators-of-version-9000": lambda: model(graph(LINEAR), version=9000).SerializeToString(),
    "operators-of-two-versions": lambda: changed(lambda m: m.opset_import.add(domain="", version=19)),
    "function-that-calls-itself": _function,
    "branch": _branch,
    "loop-of-2-to-the-62-steps": lambda: _loop("Loop"),
    "scan": lambda: _loop("Scan"),
    "random-numbers": lambda: model(
        graph(node("RandomNormalLike", "x", "r"), node("MatMul", "r w", "y"))
    ).SerializeToString(),
    "dropout-in-training": lambda: model(
        graph(
            node("Dropout", "x p t", "h"),
            node("MatMul", "h w", "y"),
            initializers=(array("p", 0.5), array("t", True, bool)),
        )
    ).SerializeToString(),
    "attribute-of-the-wrong-type": lambda: _wrong_type(AttributeProto.STRING),
    "attribute-axis-of-2-to-the-63": lambda: _wrong_type(AttributeProto.INT),
    "attribute-of-sparse-type": lambda: _wrong_type(AttributeProto.SPARSE_TENSOR),
    "attribute-without-type": lambda: _wrong_type(AttributeProto.UNDEFINED),
    "attribute-of-a-function": lambda: _wrong_type(AttributeProto.INT, ref_attr_name="axis"),
    "attribute-twice": _attribute_twice,
    "constant-of-2-to-the-62": lambda: _unbounded([2**62], node("ConstantOfShape", "s", "y")),
    "expanded-to-2-to-the-60": lambda: _unbounded([2**30, 2**30, 3], node("Expand", "x s", "y")),
    "tiled-to-2-to-the-60": lambda: _unbounded([1, 2**60], node("Tile", "x s", "y")),
    "padded-to-2-to-the-60": lambda: _unbounded([0, 0, 0, 2**60], node("Pad", "x s", "y")),
    "padded-by-reflection": lambda: _unbounded([0, 0, 0, 2**40], node("Pad", "x s", "y", mode="reflect")),
    "reshaped-to-nothing": lambda: _unbounded([0, -1, -1], node("Reshape", "x s", "y")),
    "reshaped-to-negative-lengths": lambda: _unbounded([-2, -3], node("Reshape", "x s", "y")),
    "doubled-80-times": lambda: _doubling(80),
    "length-squared-64-times": lambda: _squaring(64),
    "chain-of-100000": lambda: _long_chain(100_000),
    "range-of-2-to-the-60": lambda: model(
        graph(
            node("Range", "a b c", "r"),
            node("Cast", "r", "f", to=1),
            node("MatMul", "x w", "m"),
            node("Add", "m f", "y"),
            initializers=(array("a", 0, np.int64), array("b", 2**60, np.int64), array("c", 1, np.int64)),
        )
    ).SerializeToString(),
    "range-in-steps-of-0": lambda: model(
        graph(
            node("Range", "a b a", "r"),
            node("Cast", "r", "f", to=1),
            node("MatMul", "x w", "m"),
            node("Add", "m f", "y"),
            initializers=(array("a", 0, np.int64), array("b", 2, np.int64)),
        )
    ).SerializeToString(),
    "window-larger-than-the-image": lambda: _lying_window(kernel_shape=[2**40]),
    "window-in-steps-of-0": lambda: _lying_window(kernel_shape=[1], strides=[0]),
    "window-of-negative-padding": lambda: _lying_window(kernel_shape=[1], pads=[-1, -1]),
    "slice-in-steps-of-0": lambda: model(
        graph(
            node("Slice", "x a b c d", "h"),
            LINEAR,
            initializers=tuple(
                array(name, [value], np.int64) for name, value in zip("abcd", (0, 2, 1, 0), strict=True)
            ),
        )
    ).SerializeToString(),
    "einsum-of-code": lambda: model(
        graph(node("Einsum", "x w", "y", equation="__import__('os').system('touch /tmp/spectrum-hostile-canary')"))
    ).SerializeToString(),
    "shape-from-data": lambda: model(
        graph(node("Cast", "x", "s", to=INT64), node("Reshape", "x s", "h"), node("MatMul", "h w", "y"))
    ).SerializeToString(),
    "samples-decide": lambda: model(
        graph(
            node("Shape", "x", "s"),
            node("Gather", "s i", "n"),
            node("Equal", "n i", "e"),
            node("Where", "e x x", "h"),
            node("NonZero", "h", "z"),
            node("MatMul", "z w", "y"),
            initializers=(array("i", 0, np.int64),),
        )
    ).SerializeToString(),
    "samples-are-lost": lambda: model(
        graph(node("MatMul", "x w", "m"), node("ReduceSum", "m a", "y"), initializers=(array("a", [0], np.int64),))
    ).SerializeToString(),
    "whole-numbers-as-output": lambda: model(
        graph(node("MatMul", "x w", "m"), node("Cast", "m", "y", to=INT64))
    ).SerializeToString(),
    "nothing-to-learn": lambda: model(graph(node("Relu", "x", "y"))).SerializeToString(),
}


def hostile_onnx_files() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names and files, made when they are sent."""
    yield from _FILES.items()
