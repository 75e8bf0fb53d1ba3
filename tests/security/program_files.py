"""Files of programs, made by hand as `torch.export.save` lays them out."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.security.archives import archive

_FLOAT32 = 7


def tensor(*sizes: Any, dtype: int = _FLOAT32, requires_grad: bool = False) -> dict[str, Any]:
    """What the file says of a tensor in C order; a size may be a dictionary of its own."""
    lengths = [size if isinstance(size, dict) else {"as_int": size} for size in sizes]
    numbers = [size if isinstance(size, int) else 1 for size in sizes]
    strides = [int(np.prod(numbers[axis + 1 :])) for axis in range(len(numbers))]
    return {
        "dtype": dtype,
        "sizes": lengths,
        "requires_grad": requires_grad,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }


def node(target: str, output: str, *arguments: tuple[str, Any], kind: int = 1) -> dict[str, Any]:
    """A call of an operator with one result."""
    return {
        "target": target,
        "inputs": [{"name": name, "arg": argument, "kind": kind} for name, argument in arguments],
        "outputs": [{"as_tensor": {"name": output}}],
        "metadata": {"nn_module_stack": "L__self__,,Network;L__self__layer,layer,Linear"},
        "is_hop_single_tensor_return": None,
        "name": output,
    }


def value(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


BATCH = {"as_expr": {"expr_str": "Symbol('s0', positive=True, integer=True)", "hint": {"as_int": 3}}}


@dataclass
class Parts:
    """The parts of a file: a network tanh(x w^T + b) * scale for three samples of two numbers."""

    model: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    members: dict[str, bytes] = field(default_factory=dict)

    @property
    def graph(self) -> Any:
        return self.model["graph_module"]["graph"]

    @property
    def nodes(self) -> list[Any]:
        nodes: list[Any] = self.graph["nodes"]
        return nodes

    @property
    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = self.graph["tensor_values"]
        return values

    @property
    def signature(self) -> Any:
        return self.model["graph_module"]["signature"]

    def call(self, target: str, *arguments: tuple[str, Any], kind: int = 1) -> None:
        """Put a call between the last one and the output."""
        self.nodes.append(node(target, "more", *(arguments or (("self", value("out")),)), kind=kind))
        self.values["more"] = tensor(BATCH, 1)
        self.return_value("more")

    def return_value(self, name: str) -> None:
        self.signature["output_specs"] = [{"user_output": {"arg": value(name)}}]
        self.graph["outputs"] = [value(name)]

    def file(self, folder: str = "network/") -> bytes:
        documents = {
            "models/model.json": self.model,
            "data/weights/model_weights_config.json": {"config": self.weights},
            "data/constants/model_constants_config.json": {"config": self.constants},
        }
        members = {name: json.dumps(document).encode() for name, document in documents.items()} | self.members
        return archive({folder + name: content for name, content in members.items()})


def parts() -> Parts:
    """The parts of a file that is accepted."""
    names = {"layer.weight": (1, 2), "layer.bias": (1,), "scale": (1,)}
    graph = {
        "inputs": [value(name) for name in ("p_weight", "p_bias", "b_scale", "x")],
        "outputs": [value("out")],
        "nodes": [
            node(
                "torch.ops.aten.linear.default",
                "linear",
                ("input", value("x")),
                ("weight", value("p_weight")),
                ("bias", value("p_bias")),
            ),
            node("torch.ops.aten.tanh.default", "tanh", ("self", value("linear"))),
            node("torch.ops.aten.mul.Tensor", "out", ("self", value("tanh")), ("other", value("b_scale"))),
        ],
        "tensor_values": {
            "p_weight": tensor(1, 2, requires_grad=True),
            "p_bias": tensor(1, requires_grad=True),
            "b_scale": tensor(1),
            "x": tensor(BATCH, 2),
            "linear": tensor(BATCH, 1),
            "tanh": tensor(BATCH, 1),
            "out": tensor(BATCH, 1),
        },
        "sym_int_values": {},
        "sym_bool_values": {},
        "is_single_tensor_return": False,
        "custom_obj_values": {},
        "sym_float_values": {},
    }
    signature = {
        "input_specs": [
            {"parameter": {"arg": {"name": "p_weight"}, "parameter_name": "layer.weight"}},
            {"parameter": {"arg": {"name": "p_bias"}, "parameter_name": "layer.bias"}},
            {"buffer": {"arg": {"name": "b_scale"}, "buffer_name": "scale", "persistent": True}},
            {"user_input": {"arg": value("x")}},
        ],
        "output_specs": [{"user_output": {"arg": value("out")}}],
    }
    return Parts(
        model={
            "graph_module": {"graph": graph, "signature": signature, "module_call_graph": [], "metadata": {}},
            "opset_version": {"aten": 10},
            "range_constraints": {"s0": {"min_val": 2, "max_val": None}},
            "schema_version": {"major": 8, "minor": 20},
            "verifiers": ["TRAINING"],
            "torch_version": "2.13.0",
            "guards_code": [],
        },
        weights={
            name: {
                "path_name": f"weight_{index}",
                "is_param": name != "scale",
                "use_pickle": False,
                "tensor_meta": tensor(*sizes, requires_grad=name != "scale"),
            }
            for index, (name, sizes) in enumerate(names.items())
        },
        members={
            "byteorder": b"little",
            "archive_format": b"pt2",
            **{f"data/weights/weight_{index}": bytes([0, 0, 128, 63]) * n for index, n in enumerate((2, 1, 1))},
        },
    )


def changed(change: Callable[[Parts], object]) -> Callable[[], bytes]:
    """A maker of the file with a change to its parts."""

    def make() -> bytes:
        each = parts()
        change(each)
        return each.file()

    return make


def with_text(name: str, old: str, new: str) -> Callable[[], bytes]:
    """A maker of the file with another text in one of its documents."""

    def make() -> bytes:
        with zipfile.ZipFile(io.BytesIO(parts().file())) as file:
            members = {info.filename: file.read(info) for info in file.infolist()}
        text = members[f"network/{name}"].decode()
        assert old in text
        members[f"network/{name}"] = text.replace(old, new, 1).encode("utf-8", "surrogatepass")
        return archive(members)

    return make
