"""Programs of torch.export that are not what they say."""

import copy
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tests.security.archives import archive, bomb, overlapping, patched, zip64
from tests.security.arrays import Touch
from tests.security.attack import CANARY
from tests.security.program_files import BATCH, Parts, changed, node, parts, tensor, value, with_text

_ENTRY, _END = b"PK\1\2", b"PK\5\6"
_CODE = f"__import__('pathlib').Path({CANARY!r}).touch()"
_PICKLE = pickle.dumps(Touch())
_INT64 = 5


def _set(path: str, new: Any) -> Callable[[Parts], None]:
    """A change of one field, by its path within the parts, such as `weights/scale/use_pickle`."""

    def change(each: Parts) -> None:
        first, *inner, last = path.split("/")
        target = getattr(each, first)
        for key in inner:
            target = target[int(key) if isinstance(target, list) else key]
        target[int(last) if isinstance(target, list) else last] = new

    return change


def _target(target: str) -> Callable[[Parts], None]:
    return lambda each: each.call(target)


def _argument(argument: Any, operator: str = "torch.ops.aten.add.Tensor", name: str = "other") -> Callable[..., None]:
    return lambda each: each.call(operator, ("self", value("out")), (name, argument))


def _numbers(name: str, *numbers: float) -> Callable[[Parts], None]:
    content = struct.pack(f"<{len(numbers)}f", *numbers)
    return lambda each: each.members.update({f"data/weights/{name}": content})


def _nested(depth: int) -> Callable[[Parts], None]:
    """Regions within regions."""

    def change(each: Parts) -> None:
        inner = copy.deepcopy(each.graph) | {
            "nodes": [node("torch.ops.aten.tanh.default", "y", ("self", value("x")))],
            "inputs": [value("x")],
            "outputs": [value("y")],
            "tensor_values": {"x": tensor(BATCH, 2), "y": tensor(BATCH, 2)},
        }
        for _ in range(depth):
            region = {"as_graph": {"name": "inner", "graph": inner}}
            call = node(
                "torch.ops.higher_order.wrap_with_set_grad_enabled",
                "y",
                ("", {"as_bool": False}),
                ("", region),
                ("", value("x")),
            )
            inner = inner | {"nodes": [call]}
        each.nodes.append(inner["nodes"][0])

    return change


def _many(number: int) -> Callable[[Parts], None]:
    return lambda each: each.nodes.extend(
        node("torch.ops.aten.tanh.default", f"more{index}", ("self", value("x"))) for index in range(number)
    )


def _many_values(each: Parts) -> None:
    each.values.update((f"value{index}", {"dtype": 7, "sizes": []}) for index in range(200_000))


def _many_parameters(number: int, size: int) -> Callable[[Parts], None]:
    """Parameters that all read the same numbers, from places of their own."""

    def change(each: Parts) -> None:
        each.members["data/weights/weight_0"] = bytes(4 * size + 4 * number)
        for index in range(number):
            meta = tensor(size, requires_grad=True) | {"storage_offset": {"as_int": index}}
            each.weights[f"p{index}"] = copy.deepcopy(each.weights["layer.weight"]) | {"tensor_meta": meta}
            spec = {"parameter": {"arg": {"name": f"p{index}"}, "parameter_name": f"p{index}"}}
            each.signature["input_specs"].insert(0, spec)

    return change


def _expanded_constants(each: Parts) -> None:
    """A thousand constants of 16 million entries each, all of them one number."""
    for index in range(1000):
        meta = tensor(2**24) | {"strides": [{"as_int": 0}]}
        each.constants[f"c{index}"] = copy.deepcopy(each.weights["scale"]) | {"tensor_meta": meta}
        spec = {"tensor_constant": {"arg": {"name": f"c{index}"}, "tensor_constant_name": f"c{index}"}}
        each.signature["input_specs"].insert(0, spec)
    each.members["data/constants/weight_2"] = bytes(4)


def _renamed_parameter(name: str) -> Callable[[Parts], None]:
    def change(each: Parts) -> None:
        each.weights[name] = each.weights.pop("layer.bias")
        each.signature["input_specs"][1]["parameter"]["parameter_name"] = name

    return change


def _renamed_value(name: str) -> Callable[[], bytes]:
    return with_text("models/model.json", '"name": "tanh"}', f'"name": {json.dumps(name)}}}')


_WEIGHT = "weights/layer.weight"
_META = f"{_WEIGHT}/tensor_meta"
_FIRST = "nodes/0"
_LINEAR = "torch.ops.aten.linear.default"

_TARGETS = {
    "eval": "builtins.eval",
    "exec": "builtins.exec",
    "import": "builtins.__import__",
    "system": "os.system",
    "run": "subprocess.run",
    "load-library": "torch.ops.load_library",
    "load": "torch.load",
    "hub": "torch.hub.load",
    "attribute-of-operator": "_operator.attrgetter",
    "call-of-operator": "_operator.call",
    "getitem": "_operator.getitem",
    "class": "torch.ops.aten.add.__class__",
    "setattr": "torch.ops.aten.add.__setattr__",
    "reduce": "torch.ops.aten.add.__reduce_ex__",
    "globals": "torch.ops.aten.add.Tensor.__init__.__globals__",
    "dotted": "torch.ops.aten.__loader__.load_module",
    "other-library": "torch.ops.prims.device_put.default",
    "profiler": "torch.ops.profiler._record_function_enter.default",
    "region-without-graph": "torch.ops.no_grad",
    "inline-without-graph": "inline",
    "unknown": "torch.ops.aten.become_self_aware.default",
    "random": "torch.ops.aten.randn_like.default",
    "from-file": "torch.ops.aten.from_file.default",
    "set-storage": "torch.ops.aten.set_.source_Tensor",
    "resize": "torch.ops.aten.resize_.default",
    "item": "torch.ops.aten.item.default",
    "out": "torch.ops.aten.add.out",
    "cond": "torch.ops.higher_order.cond",
    "while-loop": "torch.ops.higher_order.while_loop",
    "custom": "torch.ops.evil.payload.default",
    "empty": "",
    "long": "torch.ops.aten." + "a" * 100_000 + ".default",
    "unicode": "torch.ops.aten.ａdd.Tensor",
    "null": "torch.ops.aten.add\0.Tensor",
}

_ARGUMENTS: dict[str, Any] = {
    "custom-object": {"as_custom_obj": {"name": "o", "class_fqn": "os.system"}},
    "operator": {"as_operator": "os.system"},
    "expression": {"as_expr": {"expr_str": _CODE}},
    "complex": {"as_complex": {"real": 1.0, "imag": 0.0}},
    "two-kinds": {"as_int": 1, "as_float": 1.0},
    "no-kind": {},
    "list": [1],
    "number": 1,
    "whole-that-is-text": {"as_int": "__import__('os')"},
    "whole-that-is-real": {"as_int": 1.5},
    "whole-of-2-64": {"as_int": 2**64},
    "whole-of-4000-digits": {"as_int": 10**4000},
    "real-that-is-text": {"as_float": _CODE},
    "real-that-is-huge": {"as_float": 10**400},
    "truth-that-is-text": {"as_bool": "False"},
    "text-of-1-mb": {"as_string": "a" * 2**20},
    "text-that-is-list": {"as_string": ["a"]},
    "sizes-that-are-text": {"as_ints": "12"},
    "sizes-that-are-dictionary": {"as_sym_ints": {"as_int": 3}},
    "size-that-is-code": {"as_sym_int": {"as_name": _CODE}},
    "type-unknown": {"as_scalar_type": 99},
    "type-that-is-text": {"as_scalar_type": "float32"},
    "memory-format-unknown": {"as_memory_format": 1000},
    "value-that-is-number": {"as_tensor": {"name": 7}},
    "value-that-is-code": {"as_tensor": {"name": "x.__class__"}},
    "value-unknown": value("nowhere"),
}

_SIZES: dict[str, Any] = {
    "negative": {"as_int": -1},
    "zero": {"as_int": 0},
    "giant": {"as_int": 2**40},
    "beyond-64-bits": {"as_int": 2**70},
    "real": {"as_int": 2.0},
    "truth": {"as_int": True},
    "text": {"as_int": "2"},
    "null": {"as_int": None},
    "code": {"as_expr": {"expr_str": _CODE, "hint": None}},
    "code-with-hint": {"as_expr": {"expr_str": _CODE, "hint": {"as_int": _CODE}}},
    "bare": 2,
}

_CHANGES: dict[str, Callable[[Parts], object]] = {
    "byteorder-big": lambda each: each.members.update(byteorder=b"big"),
    "byteorder-empty": lambda each: each.members.update(byteorder=b""),
    "byteorder-missing": lambda each: each.members.pop("byteorder"),
    "schema-7": _set("model/schema_version", {"major": 7, "minor": 0}),
    "schema-9": _set("model/schema_version", {"major": 9, "minor": 0}),
    "schema-text": _set("model/schema_version", {"major": "8", "minor": 0}),
    "schema-missing": lambda each: each.model.pop("schema_version"),
    "schema-giant": _set("model/schema_version", {"major": 10**4200, "minor": 0}),
    "graph-null": _set("model/graph_module", None),
    "graph-list": _set("model/graph_module", []),
    "nodes-dictionary": lambda each: each.graph.update(nodes={"a": 1}),
    "nodes-text": lambda each: each.graph.update(nodes="nodes"),
    "node-null": _set(_FIRST, None),
    "target-number": _set(f"{_FIRST}/target", 3),
    "target-list": _set(f"{_FIRST}/target", [_LINEAR]),
    "metadata-text": _set(f"{_FIRST}/metadata", _CODE),
    "argument-name-missing": _set(f"{_FIRST}/inputs/0/name", ""),
    "argument-name-number": _set(f"{_FIRST}/inputs/0/name", 5),
    "outputs-null": _set(f"{_FIRST}/outputs", None),
    "outputs-two-lists": _set(f"{_FIRST}/outputs", [{"as_tensors": [{"name": "a"}]}, {"as_tensors": [{"name": "b"}]}]),
    "cycle": _set(f"{_FIRST}/inputs/0/arg", value("out")),
    "reads-itself": _set(f"{_FIRST}/inputs/0/arg", value("linear")),
    "reads-before": lambda each: each.nodes.reverse(),
    "reads-nothing-that-exists": _set(f"{_FIRST}/inputs/0/arg", value("nowhere")),
    "defined-twice": _set("nodes/1/outputs", [value("linear")]),
    "defines-an-input": _set("nodes/1/outputs", [value("x")]),
    "defines-a-parameter": _set("nodes/1/outputs", [value("p_weight")]),
    "no-nodes": lambda each: each.nodes.clear(),
    "no-values": lambda each: each.values.clear(),
    "no-parameters": lambda each: each.signature.update(input_specs=each.signature["input_specs"][2:]),
    "no-inputs": lambda each: each.signature["input_specs"].pop(),
    "no-outputs": lambda each: each.signature.update(output_specs=[]),
    "two-outputs": lambda each: each.signature["output_specs"].append({"user_output": {"arg": value("tanh")}}),
    "output-is-a-parameter": lambda each: each.return_value("p_weight"),
    "output-is-a-constant": lambda each: each.return_value("b_scale"),
    "output-is-the-input": lambda each: each.return_value("x"),
    "output-unknown": lambda each: each.return_value("nowhere"),
    "output-of-code": lambda each: each.return_value(_CODE),
    "output-token": lambda each: each.signature["output_specs"].append({"token": {"arg": {"name": "t"}}}),
    "output-mutates-a-buffer": lambda each: each.signature["output_specs"].insert(
        0, {"buffer_mutation": {"arg": {"name": "tanh"}, "buffer_name": "scale"}}
    ),
    "output-mutates-the-input": lambda each: each.signature["output_specs"].insert(
        0, {"user_input_mutation": {"arg": {"name": "tanh"}, "user_input_name": "x"}}
    ),
    "output-of-whole-numbers": _set("values/out/dtype", _INT64),
    "input-twice": lambda each: each.signature["input_specs"].append({"user_input": {"arg": value("x")}}),
    "input-is-a-parameter": lambda each: each.signature["input_specs"].append({"user_input": {"arg": value("p_bias")}}),
    "input-object": lambda each: each.signature["input_specs"].append(
        {"custom_obj": {"arg": {"name": "o", "class_fqn": "os.system"}, "custom_obj_name": "o"}}
    ),
    "input-token": lambda each: each.signature["input_specs"].append({"token": {"arg": {"name": "t"}}}),
    "input-without-axes": _set("values/x", tensor()),
    "input-without-samples": _set("values/x", tensor(0, 2)),
    "inputs-constant-alone": lambda each: each.signature["input_specs"].__setitem__(
        3, {"constant_input": {"name": "x", "value": {"as_int": 3}}}
    ),
    "parameter-named-twice": lambda each: each.signature["input_specs"].append(each.signature["input_specs"][1]),
    "parameter-like-a-constant": _renamed_parameter("constant:scale"),
    "parameter-like-the-graph": _renamed_parameter("program:graph"),
    "parameter-like-metadata": _renamed_parameter("__metadata__"),
    "parameter-like-metadata-with-colon": _renamed_parameter("__metadata__:"),
    "parameter-without-name": _renamed_parameter(""),
    "parameter-name-of-100-kb": _renamed_parameter("w" * 100_000),
    "parameter-name-with-null": _renamed_parameter("w\0"),
    "parameter-name-with-line-ends": _renamed_parameter("w\r\nSet-Cookie: a=b"),
    "parameter-name-of-half-a-character": _renamed_parameter("w\ud800"),
    "parameter-name-right-to-left": _renamed_parameter("w\u202ex"),
    "parameter-of-whole-numbers": _set(f"{_META}/dtype", _INT64),
    "parameter-complex": _set(f"{_META}/dtype", 10),
    "parameter-of-unknown-type": _set(f"{_META}/dtype", 77),
    "parameter-type-list": _set(f"{_META}/dtype", [7]),
    "parameter-type-of-code": _set(f"{_META}/dtype", _CODE),
    "parameter-missing": lambda each: each.weights.pop("layer.weight"),
    "parameter-pickled": _set(f"{_WEIGHT}/use_pickle", True),
    "parameter-pickled-by-text": _set(f"{_WEIGHT}/use_pickle", "true"),
    "parameter-pickled-perhaps": _set(f"{_WEIGHT}/use_pickle", None),
    "parameter-in-sample-inputs": _set(f"{_WEIGHT}/path_name", "../sample_inputs/model.pt"),
    "parameter-in-etc": _set(f"{_WEIGHT}/path_name", "/etc/passwd"),
    "parameter-in-parents": _set(f"{_WEIGHT}/path_name", "../../../../etc/passwd"),
    "parameter-path-number": _set(f"{_WEIGHT}/path_name", 0),
    "parameter-member-missing": lambda each: each.members.pop("data/weights/weight_0"),
    "parameter-member-empty": lambda each: each.members.update({"data/weights/weight_0": b""}),
    "parameter-member-too-short": lambda each: each.members.update({"data/weights/weight_0": bytes(7)}),
    "parameter-not-a-number": lambda each: each.members.update(
        {"data/weights/weight_0": struct.pack("<2f", 1, np.nan)}
    ),
    "parameter-infinite": lambda each: each.members.update({"data/weights/weight_0": struct.pack("<2f", 1, np.inf)}),
    "constant-not-a-number": lambda each: each.members.update({"data/weights/weight_2": struct.pack("<f", np.nan)}),
    "table-of-both": lambda each: each.constants.update(scale=each.weights["scale"]),
    "table-null": lambda each: each.members.update({"data/weights/model_weights_config.json": b"null"}),
    "table-missing": lambda each: each.members.update({"data/weights/model_weights_config.json": b"{}"}),
    "table-deep": lambda each: each.members.update({"data/weights/model_weights_config.json": b"[" * 10**5}),
    "strides-giant": _set(f"{_META}/strides", [{"as_int": 2**61}, {"as_int": 2**61}]),
    "strides-beyond-64-bits": _set(f"{_META}/strides", [{"as_int": 2**80}, {"as_int": 1}]),
    "strides-negative": _set(f"{_META}/strides", [{"as_int": 1}, {"as_int": -1}]),
    "strides-few": _set(f"{_META}/strides", [{"as_int": 1}]),
    "strides-text": _set(f"{_META}/strides", "11"),
    "strides-beyond-the-end": _set(f"{_META}/strides", [{"as_int": 1}, {"as_int": 2}]),
    "offset-negative": _set(f"{_META}/storage_offset", {"as_int": -1}),
    "offset-beyond-the-end": _set(f"{_META}/storage_offset", {"as_int": 1}),
    "offset-giant": _set(f"{_META}/storage_offset", {"as_int": 2**63}),
    "offset-text": _set(f"{_META}/storage_offset", "0"),
    "shape-of-100-axes": _set(f"{_META}/sizes", [{"as_int": 1}] * 100),
    "shape-that-expands": lambda each: each.weights["layer.weight"].update(
        tensor_meta=tensor(2**30) | {"strides": [{"as_int": 0}]}
    ),
    "constants-that-expand": _expanded_constants,
    "parameters-of-the-same-numbers": _many_parameters(500, 10**6),
    "20001-parameters": _many_parameters(20_001, 1),
    "value-of-an-unknown-type": _set("values/out/dtype", 28),
    "value-of-100-axes": _set("values/out/sizes", [{"as_int": 1}] * 100),
    "value-too-large-for-any-memory": _set("values/out/sizes", [BATCH, {"as_int": 2**60}]),
    "nested-regions-40": _nested(40),
    "region-without-graph": lambda each: each.call(
        "torch.ops.higher_order.wrap_with_set_grad_enabled", ("", {"as_bool": False})
    ),
    "region-with-a-text-as-graph": lambda each: each.call(
        "torch.ops.higher_order.wrap_with_set_grad_enabled", ("", {"as_bool": False}), ("", {"as_graph": _CODE})
    ),
    "100000-nodes": _many(100_000),
    "200000-values": _many_values,
    "40000-unknown-operators": lambda each: each.nodes.extend(
        node(f"torch.ops.evil.op{index}.default", f"y{index}") for index in range(40_000)
    ),
    "batch-norm-in-training": lambda each: each.call(
        "torch.ops.aten.batch_norm.default", ("input", value("out")), ("training", {"as_bool": True})
    ),
    "batch-norm-without-names": lambda each: each.call(
        "torch.ops.aten.batch_norm.default", ("", value("out")), ("", {"as_bool": True})
    ),
}

_REGION_BEGINS = (
    '{"target": "torch.ops.higher_order.wrap_with_set_grad_enabled", "outputs": [], "inputs": ['
    '{"name": "", "arg": {"as_bool": false}, "kind": 1}, {"name": "", "kind": 1, "arg": {"as_graph": '
    '{"graph": {"inputs": [], "outputs": [], "tensor_values": {}, "nodes": ['
)
_REGION_ENDS = "]}}}}]}"

_TEXTS: dict[str, tuple[str, str]] = {
    "not-a-number": ('"kind": 1', '"kind": NaN'),
    "infinite": ('"kind": 1', '"kind": -Infinity'),
    "number-of-a-million-digits": ('"kind": 1', '"kind": ' + "9" * 10**6),
    "regions-1000-deep": ('"nodes": [', '"nodes": [' + 1000 * _REGION_BEGINS + 1000 * _REGION_ENDS),
    "deep": ('"kind": 1', '"kind": ' + "[" * 10**5 + "]" * 10**5),
    "endless": ('"kind": 1', '"kind": ' + "[" * 10**5),
    "comments": ('"kind": 1', '"kind": 1 /* one */'),
    "single-quotes": ('"kind": 1', "'kind': 1"),
    "ten-million-lists": ('"kind": 1', '"kind": [' + "[]," * 10**7 + "0]"),
    "five-million-numbers": ('"kind": 1', '"kind": [' + "0," * 5 * 10**6 + "0]"),
}


def hostile_programs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each file; all are refused."""
    for name, target in _TARGETS.items():
        yield f"target-{name}", changed(_target(target))
    for name, argument in _ARGUMENTS.items():
        yield f"argument-{name}", changed(_argument(argument))
    for name, size in _SIZES.items():
        yield f"size-{name}", changed(_set(f"{_META}/sizes/1", size))
    for name, change in _CHANGES.items():
        yield name, changed(change)
    for name, (old, new) in _TEXTS.items():
        yield f"json-{name}", with_text("models/model.json", old, new)
    for name in ("", "a.b", "a b", "a\0", "\ud800", "x" * 300, "__import__('os')", "1"):
        yield f"name-{name[:16]!a}", _renamed_value(name)
    yield "json-of-70-mb", changed(lambda each: each.model.update(guards_code=[" " * 70 * 2**20]))
    yield "json-utf-16", changed(lambda each: each.members.update({"models/model.json": "{}".encode("utf-16")}))
    yield "json-not-unicode", changed(lambda each: each.members.update({"models/model.json": b'{"a":"\xff"}'}))
    yield "pickle-for-json", changed(lambda each: each.members.update({"models/model.json": _PICKLE}))
    yield from _hostile_files()


def _hostile_files() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Files that are no archives, or whose archives lie."""
    plain = parts().file()
    yield "pickle-renamed", lambda: _PICKLE
    yield "checkpoint-renamed", lambda: archive({"model/data.pkl": _PICKLE, "model/byteorder": b"little"})
    yield "script-renamed", lambda: archive({"code/__torch__.py": _CODE.encode(), "code/data.pkl": _PICKLE})
    yield "without-folder", lambda: parts().file("")
    yield "absolute-folder", lambda: parts().file("/")
    yield "folder-of-parents", lambda: parts().file("../network/")
    yield "two-folders", lambda: _with_member(plain, "other/models/model.json", b"{}")
    yield "member-outside", lambda: _with_member(plain, "network/../../etc/passwd", b"x")
    yield "member-twice", lambda: _with_member(plain, "network/byteorder", b"little")
    yield "30000-members", lambda: _with_members(plain, {f"network/{index}": b"" for index in range(30_000)})
    yield "symbolic-folder", lambda: _with_member(plain, "network//models", b"x")
    yield "bomb", lambda: bomb(None)
    yield "bomb-as-weight", lambda: _deflated_weight(2**28)
    yield "overlapping", overlapping
    yield "zip64-of-all-bits", lambda: zip64(2**64 - 1, 2**64 - 1)
    yield (
        "encrypted",
        lambda: plain.replace(_ENTRY + plain[plain.index(_ENTRY) + 4 :][:4] + b"\0\0", _ENTRY + b"\24\0\24\0\1\0"),
    )
    yield "wrong-checksum", lambda: plain.replace(b"little", b"lIttle", 1)
    yield "wrong-size", lambda: patched(plain, _ENTRY, 24, value=struct.pack("<I", 2**31))
    yield "wrong-place", lambda: patched(plain, _ENTRY, 42, value=struct.pack("<I", 2**31))
    yield "directory-of-4-gb", lambda: patched(plain, _END, 12, value=b"\xff\xff\xff\xff")
    yield "ends-early", lambda: plain[: len(plain) // 2]
    yield "empty-archive", lambda: archive({})


def _with_member(plain: bytes, name: str, content: bytes) -> bytes:
    return _with_members(plain, {name: content})


def _with_members(plain: bytes, members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO(plain)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as file:
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there already
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def _deflated_weight(num_bytes: int) -> bytes:
    """A quarter of a gigabyte of zeros, of which the table takes two numbers, and all others as a file of JSON."""
    each = parts()
    del each.members["data/weights/weight_0"]
    buffer = io.BytesIO(each.file())
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("network/data/weights/weight_0", bytes(num_bytes))
    content = buffer.getvalue()
    return content[:-40]


def harmless_programs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Files that are accepted because what is hostile in them is never read."""
    pickles = dict.fromkeys(("data/sample_inputs/model.pt", "data/constants/custom_obj_0"), _PICKLE)
    yield "plain", parts().file
    yield "pickled-samples", changed(lambda each: each.members.update(pickles | {"run.py": _CODE.encode()}))
    yield "guards-of-code", changed(_set("model/guards_code", [_CODE]))
    yield "range-of-code", changed(_set("model/range_constraints", {_CODE: {"min_val": _CODE}}))
    yield "length-of-code", with_text("models/model.json", "Symbol('", f"{_CODE} or Symbol('")
    yield "verifiers-of-code", changed(_set("model/verifiers", [_CODE]))
    yield (
        "module-of-code",
        changed(_set(f"{_FIRST}/metadata", {"nn_module_stack": f"a,{_CODE},b", "stack_trace": _CODE})),
    )
    yield "key-twice", with_text("models/model.json", '"kind": 1', '"kind": 7, "kind": 1')
    yield "parameter-with-letters-of-the-world", changed(_renamed_parameter("слой.вес"))
    yield "parameter-like-a-path", changed(_renamed_parameter("../../../etc/passwd"))
    yield "parameter-like-a-format", changed(_renamed_parameter("{0.__class__}%n"))
    yield (
        "minus-infinity-in-a-mask",
        changed(lambda each: each.members.update({"data/weights/weight_2": struct.pack("<f", -np.inf)})),
    )
    yield "infinite-number", changed(_argument({"as_float": "-Infinity"}))
