"""Products of models that do not fit one device: parameters, vectors and data are spread over a group of processes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed import ProcessGroup
from torch.multiprocessing.reductions import StorageWeakRef

from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters
from hessian_spectrum.curvature.operators.products import double_backward_product
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True)
class ShardedLayout:
    """Which entries of each parameter every process has: of n entries, process r has ceil(n / size) from r on.

    Attributes:
        whole: Layout of the whole parameters.
        group: The processes, each with a device of its own.
    """

    whole: ParameterLayout
    group: ProcessGroup

    @property
    def own(self) -> ParameterLayout:
        """Layout of the entries that this process has."""
        parts = [self._range(num_entries) for num_entries in self.whole.sizes]
        return ParameterLayout(self.whole.names, tuple((stop - start,) for start, stop in parts))

    def shard(self, vector: Tensor) -> Tensor:
        """Return the entries that this process has of a whole vector (P,)."""
        pieces = torch.split(vector, self.whole.sizes)
        return torch.cat([piece[slice(*self._range(len(piece)))] for piece in pieces])

    def assembled(self, shard: Tensor) -> Tensor:
        """Return the whole vector (P,) of which this is the shard; every process calls it."""
        pieces = torch.split(shard, self.own.sizes)
        with torch.no_grad():
            gathered = [_gathered(each, size, self.group) for each, size in zip(pieces, self.whole.sizes, strict=True)]
        return torch.cat(gathered)

    def _range(self, num_entries: int) -> tuple[int, int]:
        rank, width = self.group.rank(), _width(num_entries, self.group)
        return min(num_entries, rank * width), min(num_entries, (rank + 1) * width)


def _width(num_entries: int, group: ProcessGroup) -> int:
    return -(-num_entries // group.size())


def _gathered(shard: Tensor, num_entries: int, group: ProcessGroup) -> Tensor:
    return _Gather.apply(shard, num_entries, group)  # type: ignore[no-any-return, no-untyped-call]


class _Gather(torch.autograd.Function):
    """The whole entries (n,) from each process's shard; its derivative is the transposed map `_ReduceScatter`."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, num_entries: int, group: ProcessGroup) -> Tensor:
        ctx.num_own, ctx.group = len(shard), group
        width = _width(num_entries, group)
        whole = shard.new_empty(width * group.size())
        dist.all_gather_single(whole, _padded(shard, width), group)
        return whole[:num_entries]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        return _ReduceScatter.apply(cotangents[0], ctx.num_own, ctx.group), None, None  # type: ignore[no-untyped-call]


class _ReduceScatter(torch.autograd.Function):
    """Each process's shard of the sum over all processes of whole entries (n,), the transposed map of `_Gather`."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, num_own: int, group: ProcessGroup) -> Tensor:
        ctx.num_entries, ctx.group = len(whole), group
        width = _width(len(whole), group)
        shard = whole.new_empty(width)
        dist.reduce_scatter_single(shard, _padded(whole, width * group.size()), group=group)
        return shard[:num_own]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(cotangents[0], ctx.num_entries, ctx.group), None, None  # type: ignore[no-untyped-call]


def _padded(vector: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(vector, (0, size - len(vector))).contiguous()


class GatheredParameters(Mapping[str, Tensor]):
    """Whole parameters, each gathered when the model asks for it and freed as soon as nothing needs it.

    Within `not_saved`, autograd keeps the shard in place of the parameter and gathers it again when it is needed.

    Args:
        shards: Shards by parameter name, from which derivatives are taken.
        layout: Layout of the parameters.

    Attributes:
        shards: The same; another point may take their place.
        largest_number: Largest number of parameters that were whole at the same time.
    """

    def __init__(self, shards: Parameters, layout: ShardedLayout) -> None:
        self.shards, self._group = shards, layout.group
        self._shapes = dict(zip(layout.whole.names, layout.whole.shapes, strict=True))
        self._living: list[tuple[str, StorageWeakRef]] = []
        self.largest_number = 0

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        whole = _gathered(self.shards[name], torch.Size(shape).numel(), self._group)
        self._note(name, whole)
        return whole.view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def not_saved(self) -> AbstractContextManager[Any]:
        """Return a context in which autograd saves no whole parameter."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def _note(self, name: str, whole: Tensor) -> None:
        self._living = [(other, storage) for other, storage in self._living if _is_alive(storage)]
        self._living.append((name, _reference(whole)))
        self.largest_number = max(self.largest_number, len(self._living))

    def _pack(self, tensor: Tensor) -> Tensor | tuple[str, tuple[Any, ...]]:
        address = _reference(tensor).cdata
        for name, storage in self._living:
            if _is_alive(storage) and storage.cdata == address:
                return name, (tensor.size(), tensor.stride(), tensor.storage_offset())
        return tensor

    def _unpack(self, packed: Tensor | tuple[str, tuple[Any, ...]]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        name, view = packed
        with torch.no_grad():
            return self[name].as_strided(*view)


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _is_alive(storage: StorageWeakRef) -> bool:
    return not storage.expired()  # type: ignore[no-untyped-call]


class ShardedOperator(SymmetricOperator):
    """The Hessian or a Gauss-Newton matrix of a model whose parameters are spread over a group of processes.

    Each process has a part of every parameter, of every vector, and its own micro-batches. A product gathers one
    parameter at a time, computes the share of the process's own data, and sums the shares while it scatters them, as
    fully sharded data parallel training does with gradients. All processes call the same functions in the same order,
    with the algorithms inside `linear_algebra.sharded_vectors`.

    Vectors (P_r,) are those of this process, and so is `dim`, P_r; the matrix has the sum P of all P_r. Lanczos and the
    search for extreme eigenpairs need no more than products and inner products. Results that depend on P, such as
    traces and densities, do not follow from `dim`.

    Args:
        matrix: Which matrix.
        risk: Model, loss, and the micro-batches of this process, as many as every other one has.
        shards: The process's part of each parameter, flat, as `ShardedLayout.own` has them.
        group: The processes.

    Attributes:
        layout: How parameters and vectors are spread.
        num_gathered: Largest number of parameters that were whole at the same time in the last product.

    Raises:
        InvalidProblemError: If the shards do not fit the layout, or processes have different numbers of micro-batches.
    """

    def __init__(
        self,
        matrix: Literal["hessian", "ggn", "functional", "fisher"],
        risk: EmpiricalRisk,
        shards: Mapping[str, Tensor],
        group: ProcessGroup,
    ) -> None:
        self.layout = ShardedLayout(self.layout_of(risk), group)
        self.layout.own.check(shards)
        self._matrix, self._shards, self.num_gathered = matrix, dict(shards), 0
        self._risk = _with_weight_of_all(risk, group, device=self.device)

    @staticmethod
    def layout_of(risk: EmpiricalRisk) -> ParameterLayout:
        """Return the layout of the whole parameters."""
        return ParameterLayout.of(risk.model.parameter_shapes)

    @property
    def dim(self) -> int:
        """Number P_r of entries of this process."""
        return self.layout.own.dim

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(iter(self._shards.values())).dtype

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return next(iter(self._shards.values())).device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return this process's part (P_r,) of A v, for its part of v."""
        own = self.layout.own
        decay = self._risk.weight_decay if self._matrix in ("hessian", "ggn") else 0.0
        total = decay * vector
        self.num_gathered = 0
        for index in range(len(self._risk.batches)):
            total += own.flatten(self._share(index, own.unflatten(vector)))
        return total

    def matmat(self, matrix: Tensor) -> Tensor:
        """Return A V (P_r, k), one column after the other."""
        return torch.stack([self.matvec(column.contiguous()) for column in matrix.T], dim=1)

    def _share(self, index: int, direction: Parameters) -> Parameters:
        """Return the product's share of micro-batch `index` of every process."""
        gathered = GatheredParameters({}, self.layout)
        inputs = self._risk.batches[index].inputs

        def outputs_at(point: Parameters) -> Tensor:
            gathered.shards = point
            return self._risk.model(gathered, inputs)

        with gathered.not_saved():
            found = double_backward_product(
                self._matrix,
                self._risk,
                index,
                outputs_at=outputs_at,
                point=self._shards,
                direction=direction,
                rows=self.layout.whole.names,
            )
        self.num_gathered = max(self.num_gathered, gathered.largest_number)
        return found


def _with_weight_of_all(risk: EmpiricalRisk, group: ProcessGroup, *, device: torch.device) -> EmpiricalRisk:
    """Return the risk with the weights of all processes, by which sums of terms are divided."""
    totals = torch.tensor([risk.weight, risk.num_terms], dtype=torch.float64, device=device)
    dist.all_reduce(totals, group=group)
    counts = torch.tensor([len(risk.batches), -len(risk.batches)], device=device)
    dist.all_reduce(counts, dist.ReduceOp.MAX, group)
    if counts.sum() != 0:
        raise InvalidProblemError("every process must have the same number of micro-batches")
    shared = copy(risk)
    vars(shared).update(weight=float(totals[0]), num_terms=int(totals[1]))
    return shared


def split_batches(risk: EmpiricalRisk, group: ProcessGroup) -> EmpiricalRisk:
    """Return the risk of every size-th micro-batch, from this process's rank on."""
    batches: Sequence[Any] = risk.batches[group.rank() :: group.size()]
    return EmpiricalRisk(risk.model, risk.loss, batches, weight_decay=risk.weight_decay)
