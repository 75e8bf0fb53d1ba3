"""Batches of samples for each step of training."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.text import TokenStream
from hessian_spectrum.curvature.losses import EmpiricalRisk, Loss
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@serializable()
@dataclass
class EpochPosition:
    """Position of a run within its epoch."""

    order: Tensor | None = None  # (n,) samples of the present epoch; None: before the first, or there is no order
    num_drawn: int = 0  # samples of the present epoch so far


class Batches(ABC):
    """A source of batches, without state: what changes from step to step is in an `EpochPosition` and a generator."""

    @abstractmethod
    def check(self, model: Model, loss: Loss) -> None:
        """Check that every possible batch fits, so that steps need not check again.

        Args:
            model: Model to train.
            loss: Loss of the model's outputs.

        Raises:
            InvalidProblemError: If model, data or options do not fit together.
        """

    @abstractmethod
    def draw(self, epoch_position: EpochPosition, generator: torch.Generator) -> tuple[Dataset, ...]:
        """Return the next batch in micro-batches; the position and the generator advance."""

    @abstractmethod
    def ends_epoch(self, epoch_position: EpochPosition) -> bool:
        """Return whether the batch that was drawn last is the last of its epoch."""


class EpochBatches(Batches):
    """Samples of a dataset without replacement, epoch by epoch; all of them if a batch is as large as the dataset."""

    def __init__(self, dataset: Dataset, batch_size: int | None, micro_batch_size: int | None) -> None:
        self._dataset, self._micro_batch_size = dataset, micro_batch_size
        self._batch_size = min(batch_size or len(dataset), len(dataset))

    @cached_property
    def _whole(self) -> tuple[Dataset, ...]:
        return self._dataset.split(self._micro_batch_size)

    def check(self, model: Model, loss: Loss) -> None:
        """Check all samples, once."""
        EmpiricalRisk(model, loss, self._whole)

    def draw(self, epoch_position: EpochPosition, generator: torch.Generator) -> tuple[Dataset, ...]:
        """Return the next samples of the epoch."""
        size = len(self._dataset)
        if self._batch_size == size:
            epoch_position.num_drawn = size
            return self._whole
        if epoch_position.order is None or epoch_position.num_drawn >= size:
            epoch_position.order, epoch_position.num_drawn = torch.randperm(size, generator=generator), 0
        chosen = epoch_position.order[epoch_position.num_drawn : epoch_position.num_drawn + self._batch_size]
        epoch_position.num_drawn += len(chosen)
        return self._dataset.take(chosen).split(self._micro_batch_size)

    def ends_epoch(self, epoch_position: EpochPosition) -> bool:
        """True after every sample was seen."""
        return epoch_position.num_drawn >= len(self._dataset)


class WindowBatches(Batches):
    """Windows at independent, uniformly distributed positions of a token stream; each batch is an epoch."""

    def __init__(self, stream: TokenStream, batch_size: int | None, micro_batch_size: int | None) -> None:
        if batch_size is None:
            raise InvalidProblemError("training on a token stream needs a batch_size")
        self._stream, self._batch_size, self._micro_batch_size = stream, batch_size, micro_batch_size

    def check(self, model: Model, loss: Loss) -> None:
        """Check one window of the common shape, filled with the largest token of the stream."""
        window = torch.full((1, self._stream.sequence_length), self._stream.largest_token)
        model.check_inputs(window)
        loss.check_targets(window, tuple(window.shape), model.num_outputs)

    def draw(self, epoch_position: EpochPosition, generator: torch.Generator) -> tuple[Dataset, ...]:
        """Return windows at new positions."""
        return self._stream.windows(self._batch_size, generator).split(self._micro_batch_size)

    def ends_epoch(self, epoch_position: EpochPosition) -> bool:
        """Always true."""
        return True


def batches_of(data: Dataset | TokenStream, batch_size: int | None, micro_batch_size: int | None) -> Batches:
    """Return the source of batches that suits the type of the data."""
    if isinstance(data, TokenStream):
        return WindowBatches(data, batch_size, micro_batch_size)
    return EpochBatches(data, batch_size, micro_batch_size)
