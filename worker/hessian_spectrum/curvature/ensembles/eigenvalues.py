"""The largest eigenvalues, whole spectra and traces of all members of an ensemble."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.ensembles.lanczos import (
    EnsembleLanczosState,
    advance,
    probes_of,
    start,
    tridiagonals,
)
from hessian_spectrum.curvature.ensembles.operators import EnsembleOperator
from hessian_spectrum.curvature.ensembles.stack import Ensemble, StackedMlp
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.operators.products import Matrix, product
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError

FIRST_CHECK, CHECK_GROWTH = 6, 1.2
"""Number of steps before convergence is looked at, and the factor to the next time."""

LEAST_SHARE = 0.5
"""Share of runs that go on below which the others are dropped, and products are recorded for the rest alone."""

COLUMN_BYTES = 2**28
"""Memory of columns of dense matrices that are computed at once."""


@dataclass(frozen=True, eq=False)
class TopEigenvalues:
    """The largest eigenvalue of each member.

    Attributes:
        values: Ritz values (N,) in float64, at most the largest eigenvalues.
        residuals: Norms of A y - value y (N,), without the rounding of products: some eigenvalue is that near.
        num_steps: Products of each member (N,).
        converged: Whether the residual is within the tolerance (N,).
    """

    values: Tensor
    residuals: Tensor
    num_steps: Tensor
    converged: Tensor


def top_eigenvalues(
    operator: EnsembleOperator,
    *,
    generators: Sequence[torch.Generator],
    tolerance: float = 1e-6,
    max_steps: int = 300,
) -> TopEigenvalues:
    """Return the largest eigenvalue of each member, by Lanczos runs without reorthogonalisation.

    A run keeps two vectors. Ghosts are copies of converged Ritz values, so the largest one is not wrong. A run ends
    when its residual is within the tolerance at two checks one after the other.

    Args:
        operator: Matrices of the members.
        generators: Generator of the start vector of each member, on the CPU; they advance.
        tolerance: Largest residual, relative to the value.
        max_steps: Largest number of products.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.
    """
    size = operator.size
    found = TopEigenvalues(
        values=torch.zeros(size, dtype=torch.float64),
        residuals=torch.zeros(size, dtype=torch.float64),
        num_steps=torch.zeros(size, dtype=torch.int64),
        converged=torch.zeros(size, dtype=torch.bool),
    )
    probes = probes_of(operator.dim, 1, generators)
    state = start(operator, probes, num_steps=max_steps, reorthogonalisation="none")
    runs = _Runs(operator, state, torch.arange(size), torch.zeros(size, dtype=torch.bool))
    check = FIRST_CHECK
    while True:
        advance(runs.operator, runs.state)
        if bool((runs.state.failed_at > 0).any()):
            raise NonFiniteError(f"the matrix-vector product of Lanczos step {runs.state.step} holds NaN or infinity")
        if runs.state.step < check and not runs.state.is_finished:
            continue
        check = max(check + 2, int(CHECK_GROWTH * check))
        going = torch.nonzero(~runs.looked_at(found, tolerance)).flatten()
        if not len(going):
            return found
        if len(going) <= LEAST_SHARE * len(runs.members):
            runs = runs.take(going)


@dataclass(frozen=True, eq=False)
class _Runs:
    """Lanczos runs of some members.

    Attributes:
        operator: Their matrices.
        state: Their state.
        members: Index of each member among all.
        were_near: Whether the residual of each was within the tolerance at the last check.
    """

    operator: EnsembleOperator
    state: EnsembleLanczosState
    members: Tensor
    were_near: Tensor

    def looked_at(self, found: TopEigenvalues, tolerance: float) -> Tensor:
        """Note the present eigenvalues, and return which runs have ended."""
        state = self.state
        last = state.num_done[0] - 1  # the last step of each run
        matrices = tridiagonals(state, state.step)[0]
        # rows after the end of a run get eigenvalues that are not the largest
        is_after = torch.arange(state.step) > last.unsqueeze(1)
        least = -3 * (matrices.abs().amax(dim=(1, 2)) + 1)
        matrices.diagonal(dim1=1, dim2=2).copy_(
            torch.where(is_after, least.unsqueeze(1), matrices.diagonal(dim1=1, dim2=2))
        )
        values, vectors = torch.linalg.eigh(matrices)
        couplings = state.off_diagonal[0].gather(1, last.unsqueeze(1)).squeeze(1)
        tops = values[:, -1]
        residuals = (couplings * vectors[..., -1].gather(1, last.unsqueeze(1)).squeeze(1)).abs()
        is_near = residuals <= tolerance * tops.abs()
        ends: Tensor = state.has_ended[0] | (is_near & self.were_near) | (state.step >= state.limit)
        self.were_near.copy_(is_near)
        members = self.members
        found.values[members], found.residuals[members] = tops, residuals
        found.converged[members], found.num_steps[members] = is_near, last + 1
        return ends

    def take(self, rows: Tensor) -> "_Runs":
        """Return some of the runs."""
        names = ("basis", "diagonal", "off_diagonal", "num_done", "scale", "has_ended", "failed_at")
        state = replace(self.state, **{name: getattr(self.state, name)[:, rows] for name in names})
        return _Runs(self.operator.take(rows), state, self.members[rows], self.were_near[rows])


def dense_matrices(operator: EnsembleOperator) -> Tensor:
    """Return the matrices (N, P, P) of all members in float64, from products with unit vectors, made symmetric."""
    size, dim = operator.size, operator.dim
    matrices = torch.empty(size, dim, dim, dtype=torch.float64)
    width = max(1, min(dim, COLUMN_BYTES // (size * dim * operator.dtype.itemsize)))
    for first in range(0, dim, width):
        columns = torch.arange(first, min(first + width, dim))
        units = torch.zeros(width, size, dim, dtype=operator.dtype, device=operator.device)
        units[torch.arange(len(columns)), :, columns] = 1
        products = operator.products(units)[: len(columns)]
        matrices[:, columns] = products.transpose(0, 1).to(matrices)
    symmetric: Tensor = (matrices + matrices.mT) / 2
    return symmetric


def dense_spectra(operator: EnsembleOperator) -> Tensor:
    """Return every eigenvalue of each member (N, P), ascending, in float64."""
    spectra: Tensor = torch.linalg.eigvalsh(dense_matrices(operator))
    return spectra


@dataclass(frozen=True)
class _Offsets(Model):
    """The networks of an ensemble at fixed parameters, as functions of numbers that are added to pre-activations."""

    stack: StackedMlp
    parameters: Mapping[str, Tensor]
    num_samples: int

    @property
    def num_outputs(self) -> int:
        """Width of the last layer."""
        return self.stack.num_outputs

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes (N, n, widths[l + 1])."""
        layers = enumerate(self.stack.member.layers)
        return {f"{index}": (self.stack.size, self.num_samples, layer.fan_out) for index, layer in layers}

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return zeros."""
        return {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in self.parameter_shapes.items()}

    def check_inputs(self, inputs: Tensor) -> None:
        """Check them as the networks do."""
        self.stack.check_inputs(inputs)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (N, n, K)."""
        return self.stack.forward(self.parameters, inputs, list(parameters.values()))[0]


def traces(ensemble: Ensemble, parameters: Mapping[str, Tensor], *, matrix: Matrix = "hessian") -> Tensor:
    """Return the exact trace of each member (N,) in float64, from as many products as the network has units.

    The pre-activations of a layer are z = W h + b, and h does not depend on W. The diagonal entry of W_jk is therefore
    the sum over samples of h_k^2 times the second derivative with respect to z_j, that of b_j has 1 in place of h_k^2.

    Args:
        ensemble: Networks and data.
        parameters: Parameters of all members.
        matrix: "hessian", "ggn", "functional" or "fisher".

    Raises:
        InvalidProblemError: If the matrix is another one.
    """
    if matrix not in ("hessian", "ggn", "functional", "fisher"):
        raise InvalidProblemError(f"traces of {matrix} are not computed layer by layer")
    stack = ensemble.stack
    with torch.no_grad():
        _, multiplied = stack.forward(parameters, ensemble.inputs)
    model = _Offsets(stack, dict(parameters), ensemble.num_samples)
    risk = EmpiricalRisk(model, ensemble.loss, [Dataset(ensemble.inputs, ensemble.targets)])
    some = next(iter(parameters.values()))
    zeros = model.initial_parameters(torch.Generator(), some.dtype, some.device)
    total = torch.zeros(ensemble.size, dtype=torch.float64, device=some.device)
    for index, hidden in enumerate(multiplied):
        lengths = hidden.double().square().sum(dim=2) + (1 if ensemble.model.bias else 0)  # (N, n)
        name = f"{index}"
        for unit in range(zeros[name].shape[2]):
            direction = torch.zeros_like(zeros[name])
            direction[..., unit] = 1
            with torch.no_grad():
                rows = product(
                    matrix,
                    risk,
                    0,
                    features_at=lambda point: risk.features(0, point),
                    point=zeros,
                    direction={name: direction},
                    rows=[name],
                )
            total += (lengths * rows[name][..., unit].double()).sum(dim=1)
    total = ensemble.size * total
    if ensemble.weight_decay and matrix in ("hessian", "ggn"):
        total += ensemble.weight_decay * sum(values[0].numel() for values in parameters.values())
    return total.cpu()
