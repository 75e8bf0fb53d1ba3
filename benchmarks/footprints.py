"""`python -m benchmarks.footprints FAMILY`: measure and fit the coefficients of `planning.memory_coefficients`.

Each operator is measured in a process of its own: what its first product takes, what its recording holds, and what
products take afterwards. Each is then fitted by bounded least squares of relative errors in the numbers that a
forward pass produces, by sort, and in the number of parameters. Problems are such that processes grow by 100 to 300 MB:
predictions of larger jobs must be right.
"""

import argparse
import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import lsq_linear
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
from hessian_spectrum.planning.memory_coefficients import OVERHEAD_BYTES, MemoryCoefficients
from hessian_spectrum.planning.size import SORTS, Size

OPERATORS: dict[str, type[RiskOperator]] = {
    "hessian": HessianOperator,
    "ggn": GgnOperator,
    "functional": FunctionalOperator,
}
ITEM_BYTES = 4
NUM_PRODUCTS = 3
MOST_COPIES, MOST_PARAMETER_COPIES = 40.0, 10.0  # where no problem tells them

Content = tuple[Model, Loss, Dataset]


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
        lambda: program(perceptron(4096, 32, 10, activation=nn.ReLU), 4096, 4096),
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


@dataclass(frozen=True)
class Measured:
    """Bytes of one operator."""

    numbers: tuple[int, ...]  # by sort, then parameters
    recording: int
    held: int
    running: int


def measured(content: Callable[[], Content], matrix: str, num_columns: int = 1) -> Measured:
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
    return Measured(**(found | {"numbers": tuple(found["numbers"])}))


def _measure(content: Callable[[], Content], matrix: str, num_columns: int) -> Measured:
    model, loss, data = content()
    parameters = _parameters(model)
    size = model.size_on(data.inputs)
    size = size if data.targets.is_floating_point() else size.with_logits()
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
    return Measured(
        numbers=numbers_of(size),
        recording=recording,
        held=operator.held_bytes,
        running=status("VmHWM") - before,
    )


def _parameters(model: Model) -> Parameters:
    if isinstance(model, QuadraticForm):
        return {"z": torch.zeros(model.size)}
    return model.initial_parameters(torch.Generator(), torch.float32, torch.device("cpu"))


def numbers_of(size: Size) -> tuple[int, ...]:
    """By sort, then parameters."""
    return (*size.activations, size.num_parameters)


def status(field: str) -> int:
    """Bytes of this process, as proc(5) names them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    """VmHWM begins anew."""
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


def fitted(found: list[Measured], overhead: int) -> tuple[MemoryCoefficients, dict[str, list[float]]]:
    """Coefficients by quantity, and their relative errors on each measurement; what is held is part of the others."""
    features = np.array([each.numbers for each in found], dtype=float) * ITEM_BYTES
    num_sorts = features.shape[1] - 1
    coefficients, errors = {}, {}
    least = np.zeros(num_sorts + 1)
    for quantity in ("held", "recording", "running"):
        constant, most = (0, 1.0) if quantity == "held" else (overhead, MOST_PARAMETER_COPIES)
        bytes_found = np.array([getattr(each, quantity) for each in found], dtype=float)
        # errors are relative to this: a small job would count for most otherwise
        wanted = np.maximum(bytes_found, max(4 * constant, 2**16))
        bounds = (least, [MOST_COPIES] * num_sorts + [most])
        solution = lsq_linear(features / wanted[:, None], (bytes_found - constant) / wanted, bounds).x
        coefficients[quantity] = tuple(float(value) for value in solution.round(2))
        errors[quantity] = ((features @ solution + constant - bytes_found) / wanted).round(2).tolist()
        if quantity == "held":
            least = solution
    return MemoryCoefficients(**coefficients), errors


def main() -> None:
    """Print the coefficients as Python, and their errors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprints", description=__doc__)
    parser.add_argument("family", choices=PROBLEMS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for warm_up in (lambda: mlp(4, 3, 2, n=5), lambda: gpt2(1, 1, 4, 8, 16, n=2)):
        _measure(warm_up, "hessian", 1)
    print(f'"{arguments.family}": {{  # {", ".join(SORTS[arguments.family])}, parameters')
    for matrix in OPERATORS:
        found = [measured(content, matrix) for content in PROBLEMS[arguments.family]]
        coefficients, errors = fitted(found, OVERHEAD_BYTES)
        print(f'    "{matrix}": {coefficients},')
        print(f"    # {errors}", flush=True)
        for each in found:
            print(each, file=sys.stderr, flush=True)
    print("},")


if __name__ == "__main__":
    main()
