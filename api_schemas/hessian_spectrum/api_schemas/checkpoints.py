"""What a request takes from a checkpoint, and whoever knows the checkpoints, who is asked while it is validated."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, ValidationInfo

from hessian_spectrum.api_schemas.message import Message, misfit
from hessian_spectrum.api_schemas.patterns import SHA256, described

_PART = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"

MAX_DEPTH = 4
"""Directories in the name of a checkpoint, as of a hub's cache or of a trainer's run."""

CHECKPOINT_NAME = described(
    rf"^{_PART}(/{_PART}){{0,{MAX_DEPTH - 1}}}$",
    "must be the name of a checkpoint: up to 128 letters, digits and . _ -, the first a letter or digit, and as much "
    "again after each of up to three slashes",
)

CheckpointName = Annotated[
    str,
    Field(
        pattern=CHECKPOINT_NAME,
        description="A directory in the server's models directory, or one below it such as run-7/checkpoint-500, as "
        "`/v1/models` lists them.",
    ),
]
Sha256 = Annotated[str, Field(pattern=SHA256)]

CONTEXT = "checkpoints"
"""Key of the `CheckpointCatalog` in the context of a validation."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded, and why; no path of the server's is in the text."""


class UnknownCheckpointError(CheckpointError):
    """There is none of this name."""


class Gpt2Checkpoint(Message):
    """The fields of a `gpt2` that its checkpoint decides."""

    checkpoint_sha256: str
    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int
    bias: bool
    activation: Literal["gelu-tanh", "gelu", "relu"]


class CausalLmCheckpoint(Message):
    """The fields of a `causal-lm`."""

    checkpoint_sha256: str
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_positions: int
    vocab_size: int
    parameters: dict[str, list[int]]


class DecoderSizes(Message):
    """What transformers' own configuration class makes of a `causal-lm`."""

    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_positions: int
    vocab_size: int
    num_parameters: int
    left_out: list[str]  # names of the stored tensors that are no parameters: copies of tied ones, and tables


CheckpointState = Literal["loadable", "unchecked", "refused"]


class CheckpointVerdict(Message):
    """What came of a worker's trial of a checkpoint: it was built, given two tokens and multiplied with a vector."""

    state: CheckpointState
    reason: str | None = None
    sizes: DecoderSizes | None = None  # of a `causal-lm`
    fallback_method: Literal["forward-over-reverse", "double-backward"] | None = None
    fallback_reason: str | None = None


class Verdicts(Protocol):
    """Knows what workers found of checkpoints."""

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """Of the checkpoint with this digest as a model of this kind; None before any trial."""
        ...


class NoVerdicts:
    """Where nothing was tried."""

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """None."""
        return None


class CheckpointCatalog(Protocol):
    """Knows checkpoints by name."""

    def gpt2(self, name: str) -> Gpt2Checkpoint:
        """Raises:  CheckpointError."""
        ...

    def causal_lm(self, name: str) -> CausalLmCheckpoint:
        """Raises:  CheckpointError."""
        ...


def with_checkpoint(
    fields: Any, info: ValidationInfo, look_up: Callable[[CheckpointCatalog, str], Gpt2Checkpoint | CausalLmCheckpoint]
) -> Any:
    """The fields of a model, and what its checkpoint says where they say nothing.

    Without a catalog in the context, as where a request is read that was accepted before, they stay as they are.

    Raises:
        ValidationError: At `checkpoint`, or at a field that differs from the checkpoint.
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
    """A checkpoint in the models directory; what is not known of one that cannot be loaded is null."""

    name: str
    kind: Literal["gpt2", "causal-lm"] | None = Field(default=None, description="The kind of model that it is for.")
    num_parameters: int | None = None
    sha256: str | None = Field(
        default=None,
        description="The SHA-256 of what sha256sum prints of config.json and the files of the weights, by name.",
    )
    n_layer: int | None = None
    n_head: int | None = None
    n_embd: int | None = None
    n_positions: int | None = None
    vocab_size: int | None = None
    state: CheckpointState = Field(
        default="unchecked",
        description="It is loadable if a worker has built it and computed a product of its matrix, unchecked if none "
        "has tried yet (a worker does so by itself, and before the first job that names it), refused if it cannot be "
        "loaded.",
    )
    reason: str | None = Field(
        default=None,
        description="Why it is refused or still unchecked, or what does not work with it: a precision in which "
        "the model fails, or why its products cannot be recorded.",
    )
    problem: str | None = Field(default=None, description="Why it cannot be loaded: the reason of a refused one.")


class ModelList(Message):
    """What this server can load, by name."""

    models: list[LoadableModel]
