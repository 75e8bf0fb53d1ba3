"""Dense matrices of fully connected networks, assembled from derivatives of their pre-activations."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from hessian_spectrum.curvature.linear_algebra import Triangle
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.products import GAUSS_NEWTON, Matrix, product
from hessian_spectrum.curvature.process_memory import release_freed_memory
from hessian_spectrum.planning.work import layered_samples, layered_units


@dataclass(frozen=True)
class _Signals:
    """Forward and backward signals of each layer; samples are the last axis."""

    hidden: list[Tensor]  # h_l (widths[l], n), scaled as W_l multiplies them
    delta: list[Tensor]  # dL/dz_l (widths[l + 1], n)


@dataclass(frozen=True)
class _Unit:
    """Unit `index` of `layer`, and how the signals of its layer and of later ones change with its pre-activation."""

    layer: int
    index: int
    weight: int | None  # its first column, if the block has its weights
    bias: int | None  # its column, if the block has its bias
    change: _Signals


@dataclass(frozen=True, kw_only=True, eq=False)
class LayeredAssembly:
    """A (P, P) of the risk of an `Mlp`, in n P^2 operations instead of 6 n P^2 for P products.

    Parameters enter only through z_l = W_l h_l + b_l, and samples share no z. Therefore dL/dW_l = sum_n delta_l h_l^T,
    and moving unit i of z_m of *every* sample at once gives, by one product with respect to the z, the derivatives d_i
    of each sample; W_m[i, j] moves it by h_m[j]:

        A[W_l, W_m[i, j]] = sum_n (d_i delta_l h_l^T + delta_l d_i h_l^T) h_m[j],    l >= m

    where d_i h_m = 0, and the Gauss-Newton matrix lacks the second term. (For l < m, delta_l depends on W_m itself as
    well; that part follows by symmetry.) Biases have 1 in place of h.

    Attributes:
        matrix: Which matrix.
        risk: Risk of an `Mlp`.
        point: Parameters of the model, by name.
        layout: Layout of the parameters whose submatrix is computed, in the model's order.
    """

    matrix: Matrix
    risk: EmpiricalRisk
    point: Mapping[str, Tensor]
    layout: ParameterLayout

    @cached_property
    def _model(self) -> Mlp:
        assert isinstance(self.risk.model, Mlp)
        return self.risk.model

    @cached_property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.point.values())).dtype

    @cached_property
    def _device(self) -> torch.device:
        return next(iter(self.point.values())).device

    @cached_property
    def _chunks(self) -> EmpiricalRisk:
        """The same risk in micro-batches that are small enough to be assembled."""
        samples = layered_samples(self.layout.dim, sum(self._model.widths[1:]), self._dtype.itemsize)
        chunks = [chunk for batch in self.risk.batches for chunk in batch.split(samples)]
        return EmpiricalRisk(self._model, self.risk.loss, chunks)

    @cached_property
    def _starts(self) -> dict[str, int]:
        """The first column of each parameter in the block."""
        return dict(zip(self.layout.names, accumulate(self.layout.sizes, initial=0), strict=False))

    def fill(self, triangle: Triangle) -> Iterator[None]:
        """Compute the rest of the upper triangle, in place, yielding after each step."""
        assert triangle.is_upper
        num_chunks = len(self._chunks.batches)
        steps = [(chunk, layer, units) for chunk in range(num_chunks) for layer, units in self._steps(chunk)]
        num_done = sum(self._num_columns(layer, len(units)) for _, layer, units in steps[: triangle.num_steps])
        present, signals, buffer = -1, _Signals([], []), torch.empty(0)
        for chunk, layer, units in steps[triangle.num_steps :]:
            if chunk != present:
                present, signals = chunk, self._signals(chunk)
                buffer = torch.empty(
                    self.layout.dim, len(self._chunks.batches[chunk]), dtype=self._dtype, device=self._device
                )
            for unit in self._units(chunk, layer, units):
                self._add(triangle.rows, buffer, signals=signals, unit=unit)
            num_done += self._num_columns(layer, len(units))
            triangle.num_steps, triangle.num_columns = triangle.num_steps + 1, num_done // num_chunks
            yield
        del signals, buffer
        release_freed_memory()

    def _steps(self, chunk: int) -> Iterator[tuple[int, range]]:
        """Units to differentiate at once, by layer: a bounded number, of all layers with parameters in the block."""
        widths = self._model.widths
        width = layered_units(sum(widths[1:]), len(self._chunks.batches[chunk]), self._dtype.itemsize)
        for layer, num_units in enumerate(widths[1:]):
            if self._num_columns(layer, 1):
                for start in range(0, num_units, width):
                    yield layer, range(start, min(start + width, num_units))

    def _num_columns(self, layer: int, num_units: int) -> int:
        """Return the number of the block's columns that belong to this number of units of the layer."""
        weight, bias = (name in self._starts for name in self._model.layer_names(layer))
        return num_units * (weight * self._model.widths[layer] + bias)

    def _units(self, chunk: int, layer: int, units: range) -> Iterator[_Unit]:
        weight, bias = (self._starts.get(name) for name in self._model.layer_names(layer))
        for index, change in zip(units, self._changes(chunk, layer, units), strict=True):
            first = None if weight is None else weight + index * self._model.widths[layer]
            yield _Unit(layer, index, first, None if bias is None else bias + index, change)

    def _add(self, transposed: Tensor, buffer: Tensor, *, signals: _Signals, unit: _Unit) -> None:
        """Add the unit's columns, as rows from the diagonal on."""
        start = unit.weight if unit.weight is not None else unit.bias
        assert start is not None
        terms = buffer[: self.layout.dim - start]
        self._fill(terms, signals, unit)
        if unit.weight is not None:
            hidden = signals.hidden[unit.layer]
            _add_product(transposed[start : start + len(hidden), start:], hidden, terms)
        if unit.bias is not None:
            transposed[unit.bias, unit.bias :] += terms[unit.bias - start :].sum(1)

    def _fill(self, terms: Tensor, signals: _Signals, unit: _Unit) -> None:
        """Write each sample's terms of the change of dL/d(parameters) into `terms` (k, n), from the unit's own on."""
        position = 0
        for layer in range(unit.layer, len(self._model.widths) - 1):
            weight, bias = (name in self._starts for name in self._model.layer_names(layer))
            hidden, later = signals.hidden[layer], layer - unit.layer
            delta_change = unit.change.delta[later]
            first = 0 if later else unit.index
            if weight:
                change = delta_change[first:]
                outer = terms[position : position + len(change) * len(hidden)].view(-1, *hidden.shape)
                torch.mul(change[:, None], hidden, out=outer)
                if later and self.matrix not in GAUSS_NEWTON:
                    outer.addcmul_(signals.delta[layer][:, None], unit.change.hidden[later])
                position += len(change) * len(hidden)
            if bias:
                first = first if unit.weight is None else 0  # after its weights come all biases of the layer
                terms[position : position + len(delta_change) - first] = delta_change[first:]
                position += len(delta_change) - first

    def _signals(self, chunk: int) -> _Signals:
        offsets = self._offsets(chunk)
        outputs, pull = vjp(partial(self._outputs, chunk), offsets)  # type: ignore[misc]
        gradient = pull(self._chunks.residual(chunk, outputs))[0]
        hidden = self._hidden(chunk, offsets)
        return _Signals([each.T.contiguous() for each in hidden], [each.T.contiguous() for each in gradient.values()])

    def _changes(self, chunk: int, layer: int, units: range) -> list[_Signals]:
        """Derivatives of the signals of this layer and later ones with respect to each of the layer's `units`."""
        offsets, name = self._offsets(chunk), str(layer)
        later = list(offsets)[layer:]

        def single(direction: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            outputs_at = partial(self._outputs, chunk)
            delta = product(
                self.matrix,
                self._chunks,
                chunk,
                features_at=outputs_at,
                point=offsets,
                direction={name: direction},
                rows=later,
            )

            def hidden_at(offset: Tensor) -> list[Tensor]:
                return self._hidden(chunk, {**offsets, name: offset})[layer:]

            _, hidden = jvp(hidden_at, (offsets[name],), (direction,))  # type: ignore[misc]
            return hidden, list(delta.values())

        directions = torch.zeros(len(units), *offsets[name].shape, dtype=self._dtype, device=self._device)
        for position, unit in enumerate(units):
            directions[position, :, unit] = 1
        hidden, delta = ([each.mT.contiguous() for each in signals] for signals in vmap(single)(directions))
        return [_Signals([h[i] for h in hidden], [d[i] for d in delta]) for i in range(len(units))]

    def _offsets(self, chunk: int) -> Parameters:
        """Return zeros, one for each pre-activation, by layer."""
        num_samples = len(self._chunks.batches[chunk])
        return {
            str(layer): torch.zeros(num_samples, width, dtype=self._dtype, device=self._device)
            for layer, width in enumerate(self._model.widths[1:])
        }

    def _outputs(self, chunk: int, offsets: Mapping[str, Tensor]) -> Tensor:
        return self._forward(chunk, offsets)[0]

    def _hidden(self, chunk: int, offsets: Mapping[str, Tensor]) -> list[Tensor]:
        return self._forward(chunk, offsets)[1]

    def _forward(self, chunk: int, offsets: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self._model.forward(self.point, self._chunks.batches[chunk].inputs, list(offsets.values()))


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left right^T to `target`, which may be of a higher precision."""
    if target.dtype == left.dtype:
        target.addmm_(left, right.T)
    else:
        target += left @ right.T
