"""What products are compared with: gradients, and curvlinops as its documentation says to use it."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.operators import Matrix
from benchmarks.problems import Problem
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.operators.programs import MatmulPrecision, matmuls_in

HAS_CURVLINOPS = find_spec("curvlinops") is not None


def eager_gradient(problem: Problem) -> Callable[[], tuple[Tensor, ...]]:
    """dL/d theta by `torch.autograd.grad`, one tensor per parameter."""
    if problem.module is not None:
        return _module_gradient(problem, problem.module)
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in problem.parameters.items()}
    return lambda: torch.autograd.grad(problem.risk.batch_share(0, leaves), list(leaves.values()))


def _module_gradient(problem: Problem, module: nn.Module) -> Callable[[], tuple[Tensor, ...]]:
    """The same of a user's module, as the user computes it."""
    leaves, data = list(module.parameters()), problem.data
    return lambda: torch.autograd.grad(nn.functional.cross_entropy(module(data.inputs), data.targets), leaves)


def compiled_gradient(
    problem: Problem, matmul_precision: MatmulPrecision | None = None
) -> Callable[[], tuple[Tensor, ...]]:
    """dL/d theta by `torch.compile(torch.func.grad(L))`, one tensor per parameter.

    With `matmul_precision` bfloat16 the model runs under PyTorch's autocast, as it is trained, and the loss in float32.

    Of four ways to compile it (this, or autograd.grad of the compiled loss; the loss of this project, or PyTorch's
    cross_entropy) this one took the least processor time on gpt-small: forward and backward pass are one graph.
    """

    risk, device_type = problem.risk, problem.device.type

    def loss(parameters: Parameters) -> Tensor:
        if matmul_precision != "bfloat16":
            return risk.batch_share(0, parameters)
        with torch.autocast(device_type, torch.bfloat16):
            outputs = problem.model(parameters, problem.data.inputs)
        return risk.loss.total(outputs.to(problem.dtype), problem.data.targets) / risk.num_terms

    # PyTorch would else take the sizes of the warm-up for variable ones, and compile slower code
    gradient = torch.compile(torch.func.grad(loss), dynamic=False)

    def call() -> tuple[Tensor, ...]:
        with matmuls_in(matmul_precision):
            return tuple(gradient(problem.parameters).values())

    return call


class _Network(nn.Module):
    """The same model as a module; outputs (number of targets, K)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self._model = problem.model
        self._names = tuple(problem.parameters)
        # a module's parameters must not hold dots in their names, so they are numbered
        self.numbered = nn.ParameterList(nn.Parameter(each.detach().clone()) for each in problem.parameters.values())

    def forward(self, inputs: Tensor) -> Tensor:
        parameters: Mapping[str, Tensor] = dict(zip(self._names, self.numbered, strict=True))
        return self._model(parameters, inputs).flatten(0, -2)


class _Unfused(nn.Module):
    """A user's module with attention that can be differentiated twice, which PyTorch's fused kernels cannot."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # of whole layers in eval mode, without a forward derivative
        try:
            with sdpa_kernel(SDPBackend.MATH):
                outputs: Tensor = self.module(inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(before)
        return outputs


def curvlinops_operator(problem: Problem, matrix: Matrix, micro_batch_size: int | None = None) -> Any:
    """`HessianLinearOperator` or `GGNLinearOperator` of the same risk, without its determinism check.

    Args:
        micro_batch_size: Of which the number of samples is a multiple: curvlinops weighs by samples.
    """
    curvlinops = load_curvlinops()
    network = _Network(problem) if problem.module is None else _Unfused(problem.module)
    kinds = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}
    return kinds[matrix](
        network,
        nn.CrossEntropyLoss(),
        list(network.parameters()),
        [(each.inputs, each.targets.flatten()) for each in problem.data.split(micro_batch_size)],
        check_deterministic=False,
    )


def load_curvlinops() -> Any:
    """The module; it is in the dependency group `benchmarks` only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # linear_operator uses torch.jit.script
        import_module("curvlinops.papyan2020traces.spectrum")
        return import_module("curvlinops")
