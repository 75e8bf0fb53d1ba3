"""Request of a spectrum job."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.data import Data, num_samples
from hessian_spectrum.api_schemas.data.kind import check_data, check_loss, check_training, loss_of
from hessian_spectrum.api_schemas.losses import LOSSES, AnyLoss, LossField, LossName, loss_name, settled_loss
from hessian_spectrum.api_schemas.matrices import (
    Matrix,
    MatrixField,
    MatrixOptions,
    StoredDiagonal,
    check_matrix,
    check_preconditioner,
    matrix_name,
    settled_matrix,
)
from hessian_spectrum.api_schemas.message import RequestMessage, Seed, Tags, TimeLimit, Webhook, misfit
from hessian_spectrum.api_schemas.methods import Method
from hessian_spectrum.api_schemas.models import Gpt2, Model
from hessian_spectrum.api_schemas.models.kind import Location, Shapes, block_dims, block_shapes
from hessian_spectrum.api_schemas.training import Training

_LOSSES = "; ".join(f"{name} is {loss.formula}" for name, loss in LOSSES.items())

MAX_VECTOR_NUMBERS = 500_000_000
"""Largest number of entries of all vectors in one result: 4 GB in float64, 2 GB in float32."""

MAX_BLOCKS, MAX_SPECTRA = 64, 64
"""Largest numbers of blocks and of spectra in one job."""

Precision = Literal["float64", "float32", "tf32", "bfloat16"]


class SpectrumRequest(RequestMessage):
    """A network with its data and loss, a matrix of second derivatives, and what to compute about its eigenvalues."""

    kind: Literal["spectrum"]
    model: Model = Field(description="Network whose loss is differentiated.")
    data: Data | None = Field(
        default=None,
        description="Samples that define the loss; required except for a quadratic form, for which it is null.",
    )
    loss: LossField | None = Field(
        default=None,
        description=f"Loss function, a mean over targets: {_LOSSES}. A name, or an object with a field `kind` and "
        "options. Required for models that have several; null for a quadratic form; all other models accept only mse, "
        "which is their default.",
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="Factor d of the term (d/2) |theta|^2 of the loss, over all parameters that are differentiated; "
        "null means 0. It adds d times the identity to `hessian` and `ggn`.",
    )
    matrix: MatrixField = Field(
        default="hessian",
        description="Matrix of second derivatives, or of gradients g of the terms of the loss, one for each valid "
        "target. `ggn`: the generalised Gauss-Newton matrix J^T H J; `functional`: the difference between the Hessian "
        "and the Gauss-Newton matrix; `fisher`: J^T F J with the Fisher information F of the model's distribution of "
        "targets; `empirical-fisher`: the mean of g g^T; `gradient-covariance`: the same less the outer product of the "
        "mean gradient. A name, or an object with a preconditioner and a shift.",
    )
    method: Method = Field(description="How to compute eigenvalues, and which ones.")
    train: Training | None = Field(default=None, description="Training before the spectrum is computed; null for none.")
    block: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Glob (*, ?, [...]) on names of parameters, which restricts the matrix to those that match.",
    )
    blocks: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_BLOCKS,
        description="Several globs used instead of `block`: one spectrum for each.",
    )
    precision: Precision | None = Field(
        default=None,
        description="Floating-point precision of the products; null means float64 for `exact` and for "
        "`nearest` eigenvalues, else float32. tf32 and bfloat16 are float32 with rounded factors of matrix products.",
    )
    seed: Seed = Field(default=0, description="Seed of the random probe vectors.")
    time_limit_seconds: TimeLimit = None
    tags: Tags = Field(default={})
    shared: bool = Field(
        default=False, description="Whether holders of every API key of the server may read the job and its result."
    )
    webhook: Webhook = None

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        check_loss(self.model, self.data, self.loss)
        check_data(self.model, self.data, self.loss)
        batch_size = None if self.train is None else self.train.batch_size
        check_training(self.model, is_trained=self.train is not None, batch_size=batch_size)
        check_matrix(self.matrix, self.effective_loss)
        if self.preconditioner is not None:
            check_preconditioner(self.preconditioner, self.matrix_parameters)
        if self.weight_decay and self.effective_loss is None:
            raise misfit("weight_decay", message="a quadratic form is its own loss")
        if self.block is not None and self.blocks is not None:
            raise misfit("blocks", message="give one block, or several, not both")
        if self.dim:  # the names of all blocks are looked at first
            num_spectra = self.num_spectra
            if num_spectra > MAX_SPECTRA:
                message = f"{num_spectra} spectra, of each block with each sink; at most {MAX_SPECTRA}"
                raise misfit("blocks", message=message)
            for dim in self.block_dims:
                self._check_method(dim, num_spectra)
        return self

    def _check_method(self, dim: int, num_spectra: int) -> None:
        kind = self.method.method_kind
        if kind.check is not None:
            kind.check(self.method, dim)
        vectors = None if kind.stored_vectors is None else kind.stored_vectors(self.method, dim)
        if vectors is not None:
            _check_vectors(vectors.field, num_spectra * vectors.number, dim)

    def settled(self) -> Mapping[str, Any]:
        """Loss and precision that the server chooses, and default seeds where nothing is drawn."""
        fields: dict[str, Any] = {"loss": None, "precision": self.product_precision}
        if (loss := self.loss_with_options) is not None:
            fields["loss"] = settled_loss(loss)
        fields |= {"matrix": settled_matrix(self.matrix), "weight_decay": self.weight_decay or None}
        if self.method.method_kind.assembles_matrix and self.product_precision == self.vector_precision:
            fields["seed"] = 0
        if self.train is not None and self.data and (self.train.batch_size or 0) >= num_samples(self.data):
            fields["train"] = self.train.model_copy(update={"batch_size": None})
        return fields

    @property
    def effective_loss(self) -> LossName | None:
        """Name of the loss, or of the model's own if the request leaves it out; None for a quadratic form."""
        loss = self.loss_with_options
        return None if loss is None else loss_name(loss)

    @property
    def loss_with_options(self) -> AnyLoss | None:
        """The loss, with its options where the request states them; None for a quadratic form."""
        return loss_of(self.model, self.loss)

    @property
    def summary(self) -> str:
        """What the job computes, in a few words."""
        return f"{self.method.kind}, {self.matrix_kind} of {self.model.kind}"

    @property
    def matrix_kind(self) -> Matrix:
        """Name of the matrix."""
        return matrix_name(self.matrix)

    @property
    def shift(self) -> float:
        """Damping that is added to every eigenvalue."""
        return self.matrix.shift if isinstance(self.matrix, MatrixOptions) else 0.0

    @property
    def preconditioner(self) -> StoredDiagonal | None:
        """The uploaded diagonal by which the matrix is preconditioned; None: it is not."""
        return self.matrix.preconditioner if isinstance(self.matrix, MatrixOptions) else None

    @property
    def product_precision(self) -> Precision:
        """Precision of the matrix-vector products."""
        return self.precision or ("float64" if self.method.is_float64_by_default else "float32")

    @property
    def vector_precision(self) -> Literal["float64", "float32"]:
        """Precision of parameters and vectors."""
        return "float64" if self.product_precision == "float64" else "float32"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy as pydantic does, without the cached values that follow from the fields.

        Args:
            update: New values by name of the field; they are not validated.
            deep: Whether to copy nested messages, too.

        Returns:
            The copy.
        """
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("dims", None)
        return copied

    @property
    def varies_sink(self) -> bool:
        """Whether a list of biases or mean scores is given, even a list of one."""
        sink = self.model.attention_sink if isinstance(self.model, Gpt2) else None
        return sink is not None and (isinstance(sink.bias, list) or isinstance(sink.mean_score, list))

    @property
    def matrix_parameters(self) -> Shapes:
        """Shapes of the parameters to which the rows of the matrix belong, by name, in order."""
        return block_shapes(self.model, self._globs)

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """Number of rows of the matrix, followed by that of each block if there are several."""
        return block_dims(self.model, self._globs)

    @property
    def dim(self) -> int:
        """Number of rows of the matrix."""
        return self.dims[0]

    @property
    def block_dims(self) -> tuple[int, ...]:
        """Number of rows of the matrix of each spectrum, for one attention sink."""
        return self.dims[1:] if self.blocks is not None and len(self.blocks) > 1 else self.dims

    @property
    def num_spectra(self) -> int:
        """Number of spectra: one for each block with each attention sink."""
        sink = self.model.attention_sink if isinstance(self.model, Gpt2) else None
        num_sinks = 1 if sink is None or not self.varies_sink else len(sink.variants)
        return num_sinks * len(self.block_dims)

    @property
    def _globs(self) -> dict[Location, str]:
        if self.block is not None:
            return {("block",): self.block}
        return {("blocks", index): glob for index, glob in enumerate(self.blocks or [])}


def _check_vectors(name: str, num_vectors: int, dim: int) -> None:
    if num_vectors * dim > MAX_VECTOR_NUMBERS:
        message = f"{num_vectors:,} vectors of {dim:,} numbers; a result holds at most {MAX_VECTOR_NUMBERS:,} numbers"
        raise misfit("method", name, message=message)
