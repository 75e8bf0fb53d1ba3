"""`python -m benchmarks.footprints`: measure and fit the coefficients of `planning.memory_coefficients`.

Each operator is measured in a process of its own: what its first product takes, what its recording holds, and what
products take afterwards. One set of coefficients is then fitted to all of them, built-in kinds and programs, in the
numbers that a forward pass produces, by sort, and in the number of parameters. The sum of the cubes of relative errors
is minimised, so that no problem is far off, with errors downwards `UNDERESTIMATE` times as large. Problems are such
that processes grow by 100 to 300 MB: predictions of larger jobs must be right.
"""

import argparse
import ctypes
import gc
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import Bounds, lsq_linear, minimize
from torch import nn

from benchmarks.networks import (
    Dense,
    Gated,
    Mixer,
    Plain,
    Recurrent,
    UNet,
    VisionTransformer,
    exported,
    perceptron,
    resnet18,
)
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Loss, Mse, OutputValue
from hessian_spectrum.curvature.models.attention_layer import AttentionLayer
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.closed_form import NeuronNetwork, QuadraticForm
from hessian_spectrum.curvature.models.conv import Conv
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.planning.memory_coefficients import OVERHEAD_BYTES, Copies
from hessian_spectrum.planning.size import SORTS, Size, Sort

OPERATORS: dict[str, type[RiskOperator]] = {
    "hessian": HessianOperator,
    "ggn": GgnOperator,
    "functional": FunctionalOperator,
}
ITEM_BYTES = 4
NUM_PRODUCTS = 3
UNDERESTIMATE = 1.1
ERROR_POWER = 3
SMALL_BYTES = 4 * OVERHEAD_BYTES
"""Errors are relative to at least this: a small job would count for most otherwise."""

SMALL_HELD_BYTES = 8 * 2**20

BY_HAND: tuple[Sort, ...] = ("inputs", "streamed")
"""Sorts that are not fitted: inputs are data, which plans count beside the model."""

Content = tuple[Model, Loss, Dataset]
Array = npt.NDArray[np.float64]


def mlp(*widths: int, n: int, activation: str = "tanh", labels: bool = False) -> Content:
    """An mlp on random numbers."""
    targets = torch.randint(widths[-1], (n,)) if labels else torch.randn(n, widths[-1])
    return Mlp(widths, activation), CrossEntropy() if labels else Mse(), Dataset(torch.randn(n, widths[0]), targets)


def gpt2(*shape: int, n: int) -> Content:
    """A GPT-2 of n_layer, n_head, n_embd, n_positions, vocab_size on n full sequences."""
    layers, heads, width, length, vocabulary = shape
    tokens = torch.randint(vocabulary, (n, length + 1))
    data = Dataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return Gpt2(layers, heads, width, n_positions=length, vocab_size=vocabulary), CrossEntropy(), data


def conv(*channels: int, n: int, kernel: int = 3, pooling: bool = False, activation: str = "relu") -> Content:
    """A conv net on random images."""
    return (
        Conv(channels, kernel_size=kernel, stride=1, pooling=pooling, activation=activation),
        CrossEntropy(),
        Dataset(torch.randn(n, 64), torch.randint(10, (n,))),
    )


def attention(dims: tuple[int, int, int], n: int, length: int, *, activation: str = "softmax") -> Content:
    """An attention layer of d, d_K, d_V on n sequences."""
    data = Dataset(torch.randn(n, length, dims[0]), torch.randn(n, length, dims[2]))
    return AttentionLayer(*dims, activation=activation), Mse(), data


def neurons(width: int, n: int, activation: str = "linear", *, bias: bool = False) -> Content:
    """A closed-form network of one input on n numbers."""
    return (
        NeuronNetwork(width, activation, negative_slope=0.1, bias=bias),
        Mse(),
        Dataset(torch.randn(n, 1), torch.randn(n, 1)),
    )


def quadratic(dim: int) -> Content:
    """A quadratic form."""
    matrix = torch.randn(dim, dim)
    return QuadraticForm(dim), OutputValue(), Dataset((matrix + matrix.T).reshape(1, -1), torch.zeros(1, 1))


def program(module: nn.Module, *shape: int, labels: bool = True) -> Content:
    """A module that was exported, on random inputs of a shape."""
    model = exported(module, torch.randn(2, *shape[1:]))
    outputs = model.program.output_value.shape[1:]
    targets = torch.randint(outputs[-1], (shape[0],)) if labels else torch.randn(shape[0], *outputs)
    return model, CrossEntropy() if labels else Mse(), Dataset(torch.randn(shape), targets)


# Shapes that tell the sorts apart: each is the largest in one of them.
PROBLEMS: dict[str, list[Callable[[], Content]]] = {
    "gpt2": [
        lambda: gpt2(2, 4, 128, 128, 1024, n=9),
        lambda: gpt2(5, 4, 96, 64, 128, n=16),
        lambda: gpt2(1, 8, 64, 256, 256, n=6),
        lambda: gpt2(1, 2, 64, 64, 4096, n=16),
        lambda: gpt2(1, 4, 512, 32, 12000, n=2),
        lambda: gpt2(3, 4, 512, 32, 64, n=2),
        lambda: gpt2(2, 8, 256, 64, 4000, n=6),
        lambda: gpt2(6, 2, 64, 128, 64, n=8),
        lambda: gpt2(4, 12, 768, 64, 40000, n=1),
        lambda: gpt2(12, 12, 384, 128, 20000, n=2),  # deep, and large
    ],
    "mlp": [
        lambda: mlp(64, 256, 256, 64, n=8192),
        lambda: mlp(512, 64, 64, 16, n=24576),
        lambda: mlp(32, 64, 64, 512, n=8192),
        lambda: mlp(512, 2048, 2048, 16, n=512),
        lambda: mlp(16, 256, 256, 256, 8, n=4096),
        lambda: mlp(1024, 2048, 2048, n=64),
        lambda: mlp(64, 256, 256, 64, n=8192, activation="relu"),
        lambda: mlp(16, 256, 256, 256, 8, n=8192, activation="relu"),
        lambda: mlp(512, 2048, 2048, 16, n=512, activation="relu"),
        lambda: mlp(32, 64, 64, 512, n=8192, activation="relu", labels=True),
        lambda: mlp(16, 256, 256, 256, 8, n=12288, activation="linear"),
        lambda: mlp(64, 256, 256, 64, n=16384, activation="linear"),
        lambda: mlp(16, 256, 256, 256, 8, n=4096, activation="gelu"),
        lambda: mlp(64, 256, 256, 64, n=8192, activation="gelu"),
        lambda: mlp(16, 256, 256, 256, 8, n=4096, activation="silu"),
        lambda: mlp(64, 256, 256, 64, n=8192, activation="silu"),
        lambda: mlp(16, 256, 256, 256, 8, n=8192, activation="sigmoid"),
        lambda: mlp(32, 64, 64, 512, n=8192, labels=True),
        lambda: mlp(32, 128, 512, n=6144, labels=True),
    ],
    "conv": [
        lambda: conv(8, 16, n=1024),
        lambda: conv(32, 4, n=512),
        lambda: conv(16, 16, n=256, kernel=5),
        lambda: conv(64, n=1024, kernel=1),
        lambda: conv(16, 32, n=1024, pooling=True),
        lambda: conv(256, 512, n=4, kernel=5),
        lambda: conv(8, 16, n=1024, activation="tanh"),
        lambda: conv(32, 4, n=512, activation="gelu"),
        lambda: conv(64, n=512, activation="tanh"),
    ],
    "attention": [
        lambda: attention((16, 16, 16), n=32, length=256),
        lambda: attention((128, 64, 64), n=512, length=32),
        lambda: attention((8, 128, 8), n=256, length=64),
        lambda: attention((8, 8, 128), n=256, length=64),
        lambda: attention((1, 4, 1), n=64, length=256),
        lambda: attention((64, 64, 64), n=64, length=128, activation="sigmoid"),
        lambda: attention((1500, 1500, 1500), n=2, length=16),
    ],
    "neurons": [
        lambda: neurons(1024, 6144),
        lambda: neurons(256, 16384, "relu"),
        lambda: neurons(128, 32768, "leaky-relu"),
        lambda: neurons(512, 8192, bias=True),
        lambda: neurons(2**21, 1),
    ],
    "program": [
        lambda: program(resnet18(8), 64, 3, 32, 32),
        lambda: program(resnet18(32), 8, 3, 32, 32),
        lambda: program(VisionTransformer(64, 3, 4), 32, 3, 32, 32),
        lambda: program(VisionTransformer(256, 2, 8), 8, 3, 32, 32),
        lambda: program(UNet(16), 16, 1, 32, 32, labels=False),
        lambda: program(UNet(8), 8, 1, 64, 64, labels=False),
        lambda: program(Recurrent(nn.LSTM, 32, 64), 128, 32, 32),
        lambda: program(Recurrent(nn.LSTM, 16, 128, 2), 64, 16, 16),
        lambda: program(Recurrent(nn.GRU, 32, 64), 128, 32, 32),
        lambda: program(Recurrent(nn.LSTM, 128, 32), 128, 32, 128),
        lambda: program(Recurrent(nn.GRU, 8, 96, 2), 128, 16, 8),
        lambda: program(VisionTransformer(16, 3, 8), 64, 3, 32, 32),
        lambda: program(Mixer(64, 64, 4), 64, 64, 64),
        lambda: program(Mixer(16, 256, 2), 64, 16, 256),
        lambda: program(Dense(12, 6), 64, 3, 32, 32),
        lambda: program(Dense(32, 3), 32, 3, 32, 32),
        lambda: program(Dense(8, 12), 16, 3, 32, 32),
        lambda: program(Plain(32, 32, 64, 64, activation=nn.ReLU), 64, 3, 32, 32),
        lambda: program(Plain(16, 32, 64, 128, activation=nn.GELU), 64, 3, 32, 32),
        lambda: program(Plain(32, 64, activation=nn.Tanh), 32, 3, 32, 32),
        lambda: program(Gated(64, 3), 64, 64, 64),
        lambda: program(Gated(256, 2), 32, 16, 256),
        lambda: program(VisionTransformer(32, 4, 8), 64, 3, 32, 32),
        lambda: program(perceptron(64, 256, 256, 64, activation=nn.Tanh), 8192, 64, labels=False),
        lambda: program(perceptron(64, 256, 256, 64, activation=nn.ReLU), 8192, 64, labels=False),
        lambda: program(perceptron(32, 64, 64, 512, activation=nn.ReLU), 8192, 32),
        lambda: program(perceptron(1024, 2048, 2048, 64, activation=nn.ReLU), 64, 1024),
        lambda: program(perceptron(16, 256, 256, 256, 8, activation=nn.GELU), 4096, 16),
    ],
    "quadratic": [lambda: quadratic(1500), lambda: quadratic(2200), lambda: quadratic(3300)],
}

CLOSED_FORMS = ("neurons", "quadratic")
"""Problems whose errors are printed, but to which nothing is fitted: their numbers are counted towards more."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that one operator takes."""

    recording: int  # the most, up to the end of the first product
    held: int  # by the recording
    running: int  # the most while products run


def measured(content: Callable[[], Content], matrix: str, num_columns: int = 1) -> Footprint:
    """Of an operator in a child process, beside its parameters and data."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _measure(lambda: mlp(4, 3, 2, n=5), matrix, num_columns)  # a child counts the code of libraries anew
        _measure(lambda: gpt2(1, 1, 4, 8, 16, n=2), matrix, num_columns)
        os.write(writing, json.dumps(asdict(_measure(content, matrix, num_columns))).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = json.loads(pipe.read())
    os.waitpid(child, 0)
    return Footprint(**found)


def _measure(content: Callable[[], Content], matrix: str, num_columns: int) -> Footprint:
    model, loss, data = content()
    parameters = _parameters(model)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    forget_peak()
    operator = OPERATORS[matrix](EmpiricalRisk(model, loss, [data]), parameters)
    operator.checked_gradient_norm()  # as a job does
    vectors = torch.randn(num_columns, operator.dim).T
    operator.matmat(vectors)
    recording = status("VmHWM") - before
    forget_peak()
    for _ in range(NUM_PRODUCTS):
        operator.matmat(vectors)
    assert operator.fallback_reason is None
    return Footprint(recording=recording, held=operator.held_bytes, running=status("VmHWM") - before)


def _parameters(model: Model) -> Parameters:
    if isinstance(model, QuadraticForm):
        return {"z": torch.zeros(model.size)}
    return model.initial_parameters(torch.Generator(), torch.float32, torch.device("cpu"))


def size_of(content: Content) -> Size:
    """The size of a problem."""
    model, _, data = content
    size = model.size_on(data.inputs)
    return size if data.targets.is_floating_point() else size.with_logits()


def status(field: str) -> int:
    """Bytes of this process, as proc(5) names them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    """VmHWM begins anew."""
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


Coefficients = dict[str, dict[str, float]]
"""Copies by quantity and sort."""


def fitted(sizes: list[Size], found: list[Footprint]) -> Coefficients:
    """Coefficients by quantity: what is held is part of the others."""
    sorts = [sort for sort in SORTS if sort not in BY_HAND]
    features = np.array([[*(size.number(sort) for sort in sorts), size.num_parameters] for size in sizes], dtype=float)
    coefficients, least = {}, np.zeros(len(sorts) + 1)
    for quantity in ("held", "recording", "running"):
        bytes_found = np.array([getattr(each, quantity) for each in found], dtype=float)
        constant, small = (0, SMALL_HELD_BYTES) if quantity == "held" else (OVERHEAD_BYTES, SMALL_BYTES)
        scale = np.maximum(bytes_found, small)
        solution = _least_errors(ITEM_BYTES * features / scale[:, None], (bytes_found - constant) / scale, least)
        coefficients[quantity] = dict(zip([*sorts, "parameters"], solution.round(2).tolist(), strict=True))
        if quantity == "held":
            least = solution
    return coefficients


def _least_errors(features: Array, targets: Array, least: Array) -> Array:
    """Coefficients, none below `least`, with the least sum of powers of errors."""

    def total(coefficients: Any) -> tuple[float, Array]:
        errors = features @ coefficients - targets
        weighted = np.where(errors < 0, UNDERESTIMATE, 1) * np.abs(errors)
        slopes = ERROR_POWER * weighted ** (ERROR_POWER - 1) * np.where(errors < 0, -UNDERESTIMATE, 1)
        return float((weighted**ERROR_POWER).sum()), features.T @ slopes

    start: Any = lsq_linear(features, targets, (least, np.inf)).x
    options: Any = {"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-12}
    bounds = Bounds(least, np.inf)
    result: Array = minimize(total, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    return result


def errors(coefficients: Coefficients, size: Size, footprint: Footprint) -> dict[str, float]:
    """Relative errors by quantity, and of the peak."""
    predicted, real = {}, asdict(footprint)
    for quantity, copies in coefficients.items():
        numbers = {sort: size.number(sort) for sort in SORTS} | {"parameters": size.num_parameters}
        count = sum(number * copies.get(sort, 0) for sort, number in numbers.items())
        predicted[quantity] = ITEM_BYTES * count + (0 if quantity == "held" else OVERHEAD_BYTES)
    for each in (predicted, real):
        each["peak"] = max(each["recording"], each["running"])
    return {name: round(value / max(real[name], 1) - 1, 2) for name, value in predicted.items()}


def table(coefficients: Coefficients) -> str:
    """The coefficients as Python."""
    sorts = coefficients["held"]
    return "\n".join(
        f'        "{sort}": Copies({", ".join(str(coefficients[each][sort]) for each in Copies.__annotations__)}),'
        for sort in sorts
    )


def main() -> None:
    """Print the coefficients as Python, and their errors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprints", description=__doc__)
    parser.add_argument(
        "--measurements", type=Path, required=True, help="file to which measurements are added; those in it are used"
    )
    path = parser.parse_args().measurements
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    footprints = {(matrix, group, index): Footprint(**found) for matrix, group, index, found in known}
    torch.set_num_threads(1)
    for warm_up in (lambda: mlp(4, 3, 2, n=5), lambda: gpt2(1, 1, 4, 8, 16, n=2)):
        _measure(warm_up, "hessian", 1)
    sizes = {
        (group, index): size_of(content()) for group, all_ in PROBLEMS.items() for index, content in enumerate(all_)
    }
    for matrix in OPERATORS:
        for group, index in sizes:
            key = (matrix, group, index)
            if key not in footprints:
                footprints[key] = measured(PROBLEMS[group][index], matrix)
                with path.open("a") as file:
                    print(json.dumps([*key, asdict(footprints[key])]), file=file)
        used = [key for key in sizes if key[0] not in CLOSED_FORMS]
        coefficients = fitted([sizes[key] for key in used], [footprints[matrix, *key] for key in used])
        print(f'    "{matrix}": {{\n{table(coefficients)}\n    }},')
        for group in PROBLEMS:
            found = [errors(coefficients, sizes[key], footprints[matrix, *key]) for key in sizes if key[0] == group]
            for quantity in (*coefficients, "peak"):
                print(f"    # {group}, {quantity}: {[each[quantity] for each in found]}", flush=True)


if __name__ == "__main__":
    main()
