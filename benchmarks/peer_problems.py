"""Small networks and data on which libraries of second derivatives differ, with their matrices by plain autograd."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

Matrix = Literal["hessian", "ggn"]
Batch = tuple[Tensor, Tensor]

F64 = torch.float64
NUM_CLASSES = 3
STEPS = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
"""Coefficients of a central difference of sixth order, for steps forwards."""


@dataclass(frozen=True, eq=False)
class PeerProblem:
    """A network with data and the loss whose second derivatives are asked for.

    Args:
        name: What is special about it.
        module: The network in float64 and eval mode.
        batches: The samples (x, y), as a data loader yields them.
        class_weights: Of the mean cross-entropy; None: all 1.
        by_differences: Whether double backward of the module is itself wrong, so that differences of gradients are the
            reference.
        has_two_conventions: Whether the row of a padding token may be a parameter like others, or a constant.
    """

    name: str
    module: nn.Module
    batches: list[Batch]
    class_weights: Tensor | None = None
    by_differences: bool = False
    has_two_conventions: bool = False

    @property
    def inputs(self) -> Tensor:
        return torch.cat([x for x, _ in self.batches])

    @property
    def targets(self) -> Tensor:
        return torch.cat([y for _, y in self.batches])

    @property
    def samples(self) -> list[Batch]:
        """Single samples, from which a data loader makes the batches again."""
        return list(zip(self.inputs, self.targets, strict=True))

    @property
    def batch_indices(self) -> list[list[int]]:
        """Which samples make up each batch."""
        ends = [0, *itertools.accumulate(len(x) for x, _ in self.batches)]
        return [list(range(first, last)) for first, last in itertools.pairwise(ends)]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    @property
    def weight(self) -> float:
        """Sum of the weights of the targets that count, by which `reduction="mean"` divides."""
        return self.weight_of(self.targets)

    def weight_of(self, targets: Tensor) -> float:
        """The same for some targets."""
        counted = targets[targets >= 0]
        return float(len(counted) if self.class_weights is None else self.class_weights[counted].sum())

    def criterion(self, reduction: str = "mean") -> nn.CrossEntropyLoss:
        """The loss as torch has it."""
        return nn.CrossEntropyLoss(weight=self.class_weights, reduction=reduction)

    def references(self, matrix: Matrix) -> list[Tensor]:
        """The matrices (P, P) that are right: two where the row of a padding token may be a parameter or a constant."""
        with sdpa_kernel(SDPBackend.MATH):
            first = self._hessian() if matrix == "hessian" else self._gauss_newton()
            if not self.has_two_conventions:
                return [first]
            with self._rows_of_padding_as_parameters():
                return [first, self._hessian() if matrix == "hessian" else self._gauss_newton()]

    def disagreement(self) -> float:
        """Between the reference Hessian and differences of gradients, relative to the Hessian's norm."""
        with sdpa_kernel(SDPBackend.MATH), self._rows_of_padding_as_parameters():
            reference, differences = self._hessian(), self._differences()
        return float((reference - differences).norm() / reference.norm())

    @contextmanager
    def _rows_of_padding_as_parameters(self) -> Iterator[None]:
        tables = [each for each in self.module.modules() if isinstance(each, nn.Embedding)]
        indices = [each.padding_idx for each in tables]
        for each in tables:
            each.padding_idx = None
        yield
        for each, index in zip(tables, indices, strict=True):
            each.padding_idx = index

    def _gradient(self, **options: Any) -> Tensor:
        loss = self.criterion()(self.module(self.inputs), self.targets)
        parts = torch.autograd.grad(loss, self.parameters, materialize_grads=True, **options)
        return torch.cat([part.reshape(-1) for part in parts])

    def _hessian(self) -> Tensor:
        if self.by_differences:
            return self._differences()
        return _jacobian(self._gradient(create_graph=True), self.parameters)

    def _differences(self, step: float = 1e-5) -> Tensor:
        flat = torch.cat([each.detach().reshape(-1) for each in self.parameters])

        def gradient_at(vector: Tensor) -> Tensor:
            pieces = torch.split(vector, [each.numel() for each in self.parameters])
            with torch.no_grad():
                for each, piece in zip(self.parameters, pieces, strict=True):
                    each.copy_(piece.view_as(each))
            return self._gradient()

        rows = []
        for direction in step * torch.eye(len(flat), dtype=F64):
            terms = [sign * c * gradient_at(flat + sign * n * direction) for n, c in STEPS.items() for sign in (1, -1)]
            rows.append(torch.stack(terms).sum(0) / step)
        gradient_at(flat)
        matrix = torch.stack(rows)
        return (matrix + matrix.T) / 2

    def _gauss_newton(self) -> Tensor:
        """J^T L J with the exact second derivative L of the loss in the outputs (n, classes)."""
        outputs = self.module(self.inputs)
        jacobian = _jacobian(outputs.reshape(-1), self.parameters)
        leaf = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.criterion()(leaf, self.targets), leaf, create_graph=True)
        return jacobian.T @ _jacobian(slope.reshape(-1), [leaf]) @ jacobian


def _jacobian(values: Tensor, parameters: Any) -> Tensor:
    rows = []
    for each in values:
        parts = torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows)


class _Applied(nn.Module):
    """A module whose forward pass is a function of its members and the input."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **members: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def _perceptron(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), *between, nn.Tanh(), nn.Linear(5, NUM_CLASSES))


def _tokens(padding: int | None = None) -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 3, padding), nn.Flatten(), nn.Tanh(), nn.Linear(12, NUM_CLASSES))


def _tied() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        hidden: Tensor = net.head(torch.tanh(net.mix(net.table(x).mean(1))))
        return hidden

    module = _Applied(forward, table=nn.Embedding(NUM_CLASSES, 3), mix=nn.Linear(3, 3), head=nn.Linear(3, NUM_CLASSES))
    table: Any = module.table
    head: Any = module.head
    head.weight = table.weight
    return module


def _convolutions() -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, NUM_CLASSES)]
    module = nn.Sequential(*layers)
    norm: Any = module[1]
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.bias)
    return module


def _recurrent() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(net.layer(x)[0][:, -1])  # type: ignore[no-any-return]

    return _Applied(forward, layer=nn.LSTM(3, 4, batch_first=True), head=nn.Linear(4, NUM_CLASSES))


def _attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    return _Applied(lambda net, x: net.head(net.layer(x).mean(1)), layer=layer, head=nn.Linear(4, NUM_CLASSES))


def problems() -> list[PeerProblem]:
    """Every problem, with the random numbers of seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_default_dtype(F64)
        try:
            return _problems()
        finally:
            torch.set_default_dtype(torch.float32)


def _problems() -> list[PeerProblem]:
    y = torch.tensor([0, 1, 2, 1, 2, 0])
    ignored = torch.tensor([0, -100, 2, 1, -100, 0])
    x, weights = torch.randn(6, 4), torch.tensor([0.25, 1.0, 3.0])
    indices = torch.tensor([[0, 1, 2, 0], [3, 0, 4, 5], [5, 2, 0, 1], [1, 1, 2, 0], [0, 0, 4, 3], [2, 5, 5, 1]])

    def uneven(targets: Tensor) -> list[Batch]:
        return [(x[:4], targets[:4]), (x[4:], targets[4:])]

    found = [
        PeerProblem("perceptron, one batch", _perceptron(), [(x, y)]),
        PeerProblem("layer norm", _perceptron(nn.LayerNorm(5)), [(x, y)]),
        PeerProblem("uneven batches", _perceptron(), uneven(y)),
        PeerProblem("ignored targets, one batch", _perceptron(), [(x, ignored)]),
        PeerProblem("ignored targets, uneven batches", _perceptron(), uneven(ignored)),
        PeerProblem("class weights, uneven batches", _perceptron(), uneven(y), class_weights=weights),
        PeerProblem("embedding", _tokens(), [(indices, y)]),
        PeerProblem("embedding, padding row", _tokens(padding=0), [(indices, y)], has_two_conventions=True),
        PeerProblem("tied weights", _tied(), [(indices[:, :2] % NUM_CLASSES, y)]),
        PeerProblem("batch norm in eval mode", _convolutions(), [(torch.randn(6, 1, 4, 4), y)]),
        PeerProblem("LSTM", _recurrent(), [(torch.randn(6, 3, 3), y)]),
        PeerProblem("encoder layer (attention)", _attention(), [(torch.randn(6, 3, 4), y)]),
        PeerProblem(
            "weight norm",
            nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, NUM_CLASSES)),
            [(x, y)],
            by_differences=True,
        ),
    ]
    for each in found:
        each.module.eval()
        for module in each.module.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
    return found
