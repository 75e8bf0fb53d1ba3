"""Fields that a checkpoint determines, and the catalog that is consulted while a request is validated."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, ValidationInfo

from hessian_spectrum.api_schemas.message import SHA256, Message, described, misfit

_PART = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"

MAX_DEPTH = 4
"""Largest number of directories in the name of a checkpoint, which may lie in a hub's cache or in a trainer's run."""

CHECKPOINT_NAME = described(
    rf"^{_PART}(/{_PART}){{0,{MAX_DEPTH - 1}}}$",
    "must be the name of a checkpoint: up to 128 letters, digits and . _ -, the first a letter or digit, and as much "
    "again after each of up to three slashes",
)

CheckpointName = Annotated[
    str,
    Field(
        pattern=CHECKPOINT_NAME,
        description="Directory in the server's models directory, or one below it such as run-7/checkpoint-500; "
        "/v1/models lists them.",
    ),
]
Sha256 = Annotated[str, Field(pattern=SHA256)]

CONTEXT = "checkpoints"
"""Key of the `CheckpointCatalog` in the context of a validation."""


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded; the message says why and contains no path of the server."""


class UnknownCheckpointError(CheckpointError):
    """No checkpoint has this name."""


class Gpt2Checkpoint(Message):
    """Fields of a `gpt2` model that its checkpoint determines."""

    checkpoint_sha256: str = Field(description="SHA-256 of the files of the checkpoint.")
    n_layer: int = Field(description="Number of transformer blocks in the model.")
    n_head: int = Field(description="Number of attention heads per block.")
    n_embd: int = Field(description="Width of the residual stream.")
    n_positions: int = Field(description="Longest sequence, in tokens.")
    vocab_size: int = Field(description="Number of tokens in the vocabulary.")
    bias: bool = Field(description="Whether layers have bias vectors.")
    activation: Literal["gelu-tanh", "gelu", "relu"] = Field(description="Activation function of the MLP layers.")


class CausalLmCheckpoint(Message):
    """Fields of a `causal-lm` model that its checkpoint determines."""

    checkpoint_sha256: str = Field(description="SHA-256 of the files of the checkpoint.")
    n_layer: int = Field(description="Number of transformer blocks in the model.")
    n_head: int = Field(description="Number of attention heads per block.")
    n_embd: int = Field(description="Width of the residual stream.")
    n_inner: int = Field(description="Width of the MLP layers.")
    n_positions: int = Field(description="Longest sequence, in tokens.")
    vocab_size: int = Field(description="Number of tokens in the vocabulary.")
    parameters: dict[str, list[int]] = Field(description="Shapes of the parameters, by name.")


class DecoderSizes(Message):
    """Sizes of a `causal-lm` model according to the configuration class of transformers."""

    n_layer: int = Field(description="Number of transformer blocks in the model.")
    n_head: int = Field(description="Number of attention heads per block.")
    n_embd: int = Field(description="Width of the residual stream.")
    n_inner: int = Field(description="Width of the MLP layers.")
    n_positions: int = Field(description="Longest sequence, in tokens.")
    vocab_size: int = Field(description="Number of tokens in the vocabulary.")
    num_parameters: int = Field(description="Number of parameters, with tied ones counted once.")
    left_out: list[str] = Field(
        description="Names of stored tensors that are no parameters: copies of tied ones, and constant tables."
    )


CheckpointState = Literal["loadable", "unchecked", "refused"]


class CheckpointVerdict(Message):
    """Result of a trial of a checkpoint: a worker builds the model, runs it on two tokens and computes one product."""

    state: CheckpointState = Field(description="Whether the checkpoint can be loaded, as in the list of models.")
    reason: str | None = Field(
        default=None, description="Why the checkpoint is refused, or what does not work with it."
    )
    sizes: DecoderSizes | None = Field(default=None, description="Sizes of a `causal-lm` model; null for other kinds.")
    fallback_method: Literal["forward-over-reverse", "double-backward"] | None = Field(
        default=None, description="How products are computed when they cannot be recorded; null if they can."
    )
    fallback_reason: str | None = Field(default=None, description="Why products cannot be recorded; null if they can.")


class Verdicts(Protocol):
    """Looks up the results of checkpoint trials."""

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """The verdict on the checkpoint with this digest as a model of this kind; None before any trial."""
        ...


class NoVerdicts:
    """Verdicts of a server on which no checkpoint was tried."""

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """Return None."""
        return None


class CheckpointCatalog(Protocol):
    """Looks up checkpoints by name."""

    def gpt2(self, name: str) -> Gpt2Checkpoint:
        """Fields that a `gpt2` checkpoint determines.

        Args:
            name: Directory below the models directory.

        Returns:
            The fields.

        Raises:
            CheckpointError: If there is no such checkpoint, or it cannot be loaded as a `gpt2` model.
        """
        ...

    def causal_lm(self, name: str) -> CausalLmCheckpoint:
        """Fields that a `causal-lm` checkpoint determines.

        Args:
            name: Directory below the models directory.

        Returns:
            The fields.

        Raises:
            CheckpointError: If there is no such checkpoint, or it cannot be loaded as a `causal-lm` model.
        """
        ...


def with_checkpoint(
    fields: Any, info: ValidationInfo, look_up: Callable[[CheckpointCatalog, str], Gpt2Checkpoint | CausalLmCheckpoint]
) -> Any:
    """Fields of a model, completed from its checkpoint.

    Args:
        fields: The model before validation.
        info: Validation state, whose context may hold the `CheckpointCatalog`.
        look_up: Returns what the catalog knows of a checkpoint, given its name.

    Returns:
        The fields, with those that the checkpoint determines. They are returned unchanged if they name no checkpoint,
        or if the context has no catalog, as when a request that was accepted earlier is read again.

    Raises:
        ValidationError: At `checkpoint` if it cannot be loaded, or at a field whose value differs from the
            checkpoint's.
    """
    if not isinstance(fields, dict) or not isinstance(fields.get("checkpoint"), str):
        return fields
    catalog: CheckpointCatalog | None = (info.context or {}).get(CONTEXT)
    if catalog is None:
        if fields.get("checkpoint_sha256") is None:
            raise misfit("checkpoint", message="this server has no models directory")
        return fields
    try:
        known = look_up(catalog, fields["checkpoint"]).model_dump()
    except CheckpointError as error:
        raise misfit("checkpoint", message=str(error)) from None
    for field, value in known.items():
        given = fields.get(field)
        if given is not None and (type(given) is not type(value) or given != value):
            raise misfit(field, message=f"the checkpoint has {f'{value}':.80}; it may be left out")
    return fields | known


class LoadableModel(Message):
    """A checkpoint in the models directory. Fields that are unknown, because it cannot be loaded, are null."""

    name: str = Field(description="Path below the models directory, with slashes.")
    kind: Literal["gpt2", "causal-lm"] | None = Field(
        default=None, description="Kind of model that the checkpoint is for."
    )
    num_parameters: int | None = Field(default=None, description="Number of parameters of the model.")
    sha256: str | None = Field(
        default=None,
        description="SHA-256 of what sha256sum prints for config.json and the files of weights, sorted by name.",
    )
    n_layer: int | None = Field(default=None, description="Number of transformer blocks in the model.")
    n_head: int | None = Field(default=None, description="Number of attention heads per block.")
    n_embd: int | None = Field(default=None, description="Width of the residual stream.")
    n_positions: int | None = Field(default=None, description="Longest sequence, in tokens.")
    vocab_size: int | None = Field(default=None, description="Number of tokens in the vocabulary.")
    state: CheckpointState = Field(
        default="unchecked",
        description="Whether it can be loaded. `loadable`: a worker has built it and computed a product of its "
        "matrix; `unchecked`: no worker has tried yet, which happens automatically, at the latest before "
        "the first job that names it; `refused`: it cannot be loaded.",
    )
    reason: str | None = Field(
        default=None,
        description="Why the checkpoint is refused or still unchecked, or what does not work with it: a precision in "
        "which the model fails, or the reason that its products cannot be recorded.",
    )
    problem: str | None = Field(
        default=None, description="Why the checkpoint cannot be loaded: the `reason` of a refused one, else null."
    )


class ModelList(Message):
    """The checkpoints in the server's models directory."""

    models: list[LoadableModel] = Field(description="Checkpoints in alphabetical order of their names.")
