"""Request of a spectrum job."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.data import Data, num_samples
from hessian_spectrum.api_schemas.data.kind import check_data, check_loss, check_training, loss_of
from hessian_spectrum.api_schemas.losses import LOSSES, LossName
from hessian_spectrum.api_schemas.message import RequestMessage, Seed, Tags, TimeLimit, misfit
from hessian_spectrum.api_schemas.models import Gpt2, Model
from hessian_spectrum.api_schemas.models.kind import Place, Shapes, block_dims, block_shapes
from hessian_spectrum.api_schemas.training import Training

_LOSSES = "; ".join(f"{name} is {loss.formula}" for name, loss in LOSSES.items())

MAX_VECTOR_NUMBERS = 500_000_000
"""Numbers in the vectors of one result: 4 GB in float64, 2 GB in float32."""

DEFAULT_TRACE_PROBES, DEFAULT_TRACE_LIMIT, MAX_TRACE_PRODUCTS = 100, 10_000, 1_000_000
LEAST_XTRACE_PROBES = 4
TOP_K_PRODUCTS, LEAST_TOP_K_LIMIT = 100, 1000
DIAGONAL_ARRAYS = 4
"""The diagonal, its standard errors, and both ends of its intervals."""

MAX_BLOCKS, MAX_SPECTRA = 64, 64
"""Of one job."""

Matrix = Literal["hessian", "ggn", "functional"]
Precision = Literal["float64", "float32", "tf32", "bfloat16"]
Reorthogonalisation = Literal["none", "full"]
Which = Literal["largest", "smallest", "both-ends", "magnitude"]
Estimator = Literal["hutchinson", "hutch++", "xtrace"]


Preset = Literal["paper-figure-6"]
PRESETS: dict[str, dict[str, float]] = {
    "paper-figure-6": {"num_steps": 128, "num_probes": 8, "num_points": 1024, "kappa": 3.0}
}


class ExactMethod(RequestMessage):
    """Every eigenvalue, from the assembled matrix; memory grows as the square of the number of parameters."""

    kind: Literal["exact"]
    eigenvectors: bool = Field(
        default=False, description="Whether to store eigenvectors and their residuals in the npz file."
    )


class LanczosMethod(RequestMessage):
    """Stochastic Lanczos quadrature: the spectral density with its error, and the extreme Ritz values."""

    kind: Literal["lanczos"]
    preset: Preset | None = Field(
        default=None,
        description="Named settings, from which fields that are sent deviate. `paper-figure-6` takes those of "
        "Cracking the Hessian, appendix D.1.6: 1,024 grid points, 1,024 products (128 steps for each of "
        "8 probes, as curvlinops counts them) and kappa 3.",
    )
    num_steps: int = Field(default=80, ge=2, le=4096, description="Number of Lanczos steps per probe.")
    num_probes: int = Field(default=4, ge=1, le=1_000, description="Number of random start vectors.")
    num_points: int = Field(default=1024, ge=2, le=100_000, description="Number of points of the density's grid.")
    kappa: float = Field(
        default=3.0, gt=1.0, le=1e6, description="Sharpness of the smoothing; larger values make narrower Gaussians."
    )
    margin: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="Extent of the grid beyond the extreme Ritz values, in widths of the spectrum.",
    )
    reorthogonalisation: Reorthogonalisation | None = Field(
        default=None,
        description="Whether Lanczos vectors are reorthogonalised. `full`: no ghost eigenvalues, but num_steps + 1 "
        "vectors per probe in memory; `none`: three vectors per probe, but converged eigenvalues "
        "reappear as additional nodes; null: `full` if it fits in the worker's memory.",
    )

    def settled(self) -> Mapping[str, Any]:
        """Removes the preset, whose fields have been filled in."""
        return {"preset": None}

    @model_validator(mode="before")
    @classmethod
    def _fields_of_the_preset(cls, fields: Any) -> Any:
        preset = fields.get("preset") if isinstance(fields, dict) else None
        return {**PRESETS[preset], **fields} if isinstance(preset, str) and preset in PRESETS else fields


class TopKMethod(RequestMessage):
    """Some eigenpairs from the ends of the spectrum; repeated eigenvalues are returned with their multiplicity."""

    kind: Literal["top-k"]
    k: int = Field(ge=1, le=10_000, description="Number of eigenpairs, at most the number of parameters.")
    which: Which = Field(
        default="largest",
        description="Part of the spectrum. `largest` and `smallest` respect signs; `both-ends`: half from each end; "
        "`magnitude`: largest |eigenvalue|.",
    )
    tolerance: float = Field(
        default=1e-5,
        gt=0,
        lt=1,
        description="Largest accepted residual and error of the eigenvalues, relative to the largest |eigenvalue| "
        "among those requested at the same end of the spectrum.",
    )
    absolute_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Largest accepted residual and error in loss per squared parameter, for eigenvalues that may be "
        "zero; a pair that meets either tolerance has converged.",
    )
    max_products: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description=f"Largest number of matrix-vector products; null means {TOP_K_PRODUCTS} for each eigenpair, and "
        f"at least {LEAST_TOP_K_LIMIT}.",
    )
    eigenvectors: bool = Field(default=True, description="Whether to store the eigenvectors in the npz file.")

    def settled(self) -> Mapping[str, Any]:
        """Limit on products that the server chooses."""
        return {"max_products": self.max_products or max(LEAST_TOP_K_LIMIT, TOP_K_PRODUCTS * self.k)}


class TraceMethod(RequestMessage):
    """The trace, estimated from products with a given number of random vectors or with as many as a tolerance needs."""

    kind: Literal["trace"]
    estimator: Estimator = Field(
        default="hutch++",
        description="Estimator, in order of accuracy and of vectors held in memory: `hutchinson` holds 32; `hutch++` "
        "additionally two for every three products; `xtrace` two for each product.",
    )
    num_probes: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TRACE_PRODUCTS,
        description=f"Number of matrix-vector products, at least 4 for xtrace; null means {DEFAULT_TRACE_PROBES}, or "
        "as many as the tolerance needs. With one product per parameter or more the trace is exact up to "
        "the error of the products.",
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Tolerance used instead of num_probes: an upper limit on the standard error or half the width of "
        "the interval over 1.96, whichever is larger, relative to |trace| or the Frobenius norm, "
        "whichever is larger.",
    )
    max_products: int | None = Field(
        default=None,
        ge=4,
        le=MAX_TRACE_PRODUCTS,
        description="Largest number of matrix-vector products spent on a tolerance; null means "
        f"{DEFAULT_TRACE_LIMIT}. Must be null without a tolerance.",
    )
    diagonal: bool = Field(
        default=False, description="Whether to store the matrix's diagonal with errors and intervals in the npz file."
    )

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.tolerance is not None and self.num_probes is not None:
            raise misfit("tolerance", message="give num_probes or tolerance, not both")
        if self.tolerance is None and self.max_products is not None:
            raise misfit("max_products", message="is for a tolerance; give num_probes")
        if self.estimator == "xtrace" and self.num_probes is not None and self.num_probes < LEAST_XTRACE_PROBES:
            raise misfit("num_probes", message=f"xtrace needs at least {LEAST_XTRACE_PROBES} products")
        return self

    def settled(self) -> Mapping[str, Any]:
        """Number of products that the server chooses, or the limit on it."""
        if self.tolerance is None:
            return {"num_probes": self.fixed_products}
        return {"max_products": self.most_products}

    @property
    def fixed_products(self) -> int | None:
        """Number of products to compute; None if a tolerance decides."""
        return DEFAULT_TRACE_PROBES if self.num_probes is None and self.tolerance is None else self.num_probes

    @property
    def most_products(self) -> int:
        """Largest number of products that can be needed."""
        return self.fixed_products or self.max_products or DEFAULT_TRACE_LIMIT


Method = Annotated[ExactMethod | LanczosMethod | TopKMethod | TraceMethod, Field(discriminator="kind")]


class SpectrumRequest(RequestMessage):
    """A network with its data and loss, a matrix of second derivatives, and what to compute about its eigenvalues."""

    kind: Literal["spectrum"]
    model: Model = Field(description="Network whose loss is differentiated.")
    data: Data | None = Field(
        default=None,
        description="Samples that define the loss; required except for a quadratic form, for which it is null.",
    )
    loss: LossName | None = Field(
        default=None,
        description=f"Loss function, a mean over targets: {_LOSSES}. Required for models that have several; null for a "
        "quadratic form; all other models accept only mse, which is their default.",
    )
    matrix: Matrix = Field(
        default="hessian",
        description="Matrix of second derivatives. `ggn`: the generalised Gauss-Newton matrix J^T H J; `functional`: "
        "the difference between the Hessian and the Gauss-Newton matrix.",
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
        description="Several globs used instead of `block`: one spectrum for each, from one linearisation of all "
        "parameters that match.",
    )
    precision: Precision | None = Field(
        default=None,
        description="Floating-point precision of the products; null means float64 for `exact`, else float32. tf32 "
        "and bfloat16 are float32 with rounded factors of matrix products.",
    )
    seed: Seed = Field(default=0, description="Seed of the random probe vectors.")
    time_limit_seconds: TimeLimit = None
    tags: Tags = Field(default={})
    shared: bool = Field(
        default=False, description="Whether holders of every API key of the server may read the job and its result."
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        check_loss(self.model, self.data, self.loss)
        check_data(self.model, self.data, self.loss)
        check_training(self.model, is_trained=self.train is not None)
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
        match self.method:
            case ExactMethod(eigenvectors=True):
                _check_vectors("eigenvectors", num_spectra * dim, dim)
            case TopKMethod() as method:
                if method.k > dim:
                    raise misfit("method", "k", message=f"the matrix has {dim:,} eigenvalues")
                if method.max_products is not None and method.max_products < method.k:
                    raise misfit("method", "max_products", message=f"fewer than k = {method.k:,} products")
                if method.eigenvectors:
                    _check_vectors("eigenvectors", num_spectra * method.k, dim)
            case TraceMethod(diagonal=True):
                _check_vectors("diagonal", num_spectra * DIAGONAL_ARRAYS, dim)

    def settled(self) -> Mapping[str, Any]:
        """Loss and precision that the server chooses, and default seeds where nothing is drawn."""
        fields: dict[str, Any] = {"loss": self.effective_loss, "precision": self.product_precision}
        if self.method.kind == "exact" and self.product_precision == self.vector_precision:
            fields["seed"] = 0
        if self.train is not None and self.data and (self.train.batch_size or 0) >= num_samples(self.data):
            fields["train"] = self.train.model_copy(update={"batch_size": None})
        return fields

    @property
    def effective_loss(self) -> LossName | None:
        """The loss, or the model's own if the request leaves it out; None if the model's output itself is the loss."""
        return loss_of(self.model, self.loss)

    @property
    def product_precision(self) -> Precision:
        """Precision of the matrix-vector products."""
        return self.precision or ("float64" if self.method.kind == "exact" else "float32")

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
    def _globs(self) -> dict[Place, str]:
        if self.block is not None:
            return {("block",): self.block}
        return {("blocks", index): glob for index, glob in enumerate(self.blocks or [])}


def _check_vectors(name: str, num_vectors: int, dim: int) -> None:
    if num_vectors * dim > MAX_VECTOR_NUMBERS:
        message = f"{num_vectors:,} vectors of {dim:,} numbers; a result holds at most {MAX_VECTOR_NUMBERS:,} numbers"
        raise misfit("method", name, message=message)
