"""The entry of a kind of model, apart from torch: its message, its parameters, its size, and its samples."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hessian_spectrum.api_schemas.artifacts import ArtifactId
from hessian_spectrum.api_schemas.losses import LossName
from hessian_spectrum.api_schemas.message import RequestMessage, misfit
from hessian_spectrum.planning.activations import ACTIVATIONS, DEFAULT_NEGATIVE_SLOPE
from hessian_spectrum.planning.size import Size

Shapes = dict[str, tuple[int, ...]]
"""Shapes of parameters by name, in the order of the flat parameter vector."""

Location = tuple[str | int, ...]
"""Location of a field in a request: the names and indices that lead to it."""

_MAX_NAMES_SHOWN = 20

Samples = Literal["vectors", "sequences", "tokens", "arrays", "none"]
"""Type of the samples that a model reads: rows of numbers, sequences of vectors, sequences of token ids, arrays of the
model's own shape, or none."""

if TYPE_CHECKING:
    ActivationName = str
else:
    ActivationName = Literal[tuple(ACTIVATIONS)]

NegativeSlope = Annotated[
    float, Field(description="The slope of leaky-relu for negative numbers, which may be any number.")
]


class StoredWeights(RequestMessage):
    """Weights in an uploaded safetensors or npz file: layers.0.weight, layers.0.bias, layers.1.weight and so on.

    Biases are there for all layers or for none.
    """

    kind: Literal["artifact"]
    id: ArtifactId


class KindMessage(RequestMessage):
    """Base of messages of several kinds: the field `kind` of each has one value, and its schema shows an example."""

    example: ClassVar[Mapping[str, Any] | None] = None
    if TYPE_CHECKING:
        kind: str

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema with the example that the kind lists."""
        described = handler(schema)
        if cls.example is not None:
            handler.resolve_ref_schema(described)["examples"] = [cls.example]
        return described


class ModelMessage(KindMessage):
    """The model in a request; the registry of kinds sets the two entries of each message."""

    job_kind: ClassVar["ModelKind"]
    closed_form_family: ClassVar["ClosedFormFamily"]


def settled_slope(activation: ActivationName) -> dict[str, float]:
    """Return the default of the field `negative_slope` where the activation has no slope, and nothing otherwise."""
    return {} if ACTIVATIONS[activation].has_slope else {"negative_slope": DEFAULT_NEGATIVE_SLOPE}


def fields_of(message: RequestMessage) -> dict[str, Any]:
    """Return the fields of a message by name, except `kind` and `seed`."""
    return {name: getattr(message, name) for name in type(message).model_fields if name not in ("kind", "seed")}


def _accept(*_: Any) -> None:
    """Accept any arguments."""


@dataclass(frozen=True)
class ModelKind:
    """A kind of network whose spectra are computed by jobs.

    Attributes:
        message: What a request says of it, with a field `kind`. Where weights are drawn it has a field `seed`.
        parameter_shapes: Names and shapes of the parameters of a message, in the order of the flat vector.
        size: Size(message, num_samples, sequence_length), where samples are sequences of so many positions.
        example: The fields `model`, `data` and `loss` of a small job.
        samples: What it reads.
        widths: Numbers of each input and output; of sequences at each position. Not of tokens.
        width_locations: Fields of a message that say how many inputs and outputs it has, where a caller is to change
            these; None: data are to fit.
        only_loss: The one loss that it has, and the default; None: one must be named.
        engine_arguments: Keyword arguments of the class in `curvature.models` that stands for the kind.
        given_weights: Weights in the message by name, or in an uploaded file; None: drawn from the seed.
        check: Raises a ValidationError at a location in `model` if the message cannot be used.
        check_length: The same for sequences of so many positions.
        is_trainable: Whether gradient descent moves it.
        samples_at_once: Number of samples on which it is defined, so that every micro-batch has as many; None: any.
        is_layered: Whether the engine assembles dense matrices by way of pre-activations (`curvature.models.mlp`).
        num_matrix_entries: Numbers in the message that take the place of data.
        position: Where it stands in lists of kinds; new ones come last, in the order of their names.
    """

    message: type[ModelMessage]
    parameter_shapes: Callable[[Any], Shapes]
    size: Callable[[Any, int, int], Size]
    example: Mapping[str, Any]
    samples: Samples = "vectors"
    widths: Callable[[Any], tuple[int, int]] | None = None
    width_locations: Callable[[Any], tuple[Location, Location]] | None = None
    only_loss: LossName | None = None
    engine_arguments: Callable[[Any], dict[str, Any]] = fields_of
    given_weights: Callable[[Any], Mapping[str, Any] | StoredWeights | None] = _accept
    check: Callable[[Any], None] = _accept
    check_length: Callable[[Any, int], None] = _accept
    is_trainable: bool = True
    samples_at_once: Callable[[Any], int | None] = _accept
    is_layered: bool = False
    num_matrix_entries: Callable[[Any], int] = lambda _: 0
    position: int = 100

    @property
    def name(self) -> str:
        """The value of the message's field `kind`."""
        return kind_name(self.message)


@dataclass(frozen=True)
class ClosedFormFamily:
    """A kind of model whose spectrum has a formula, which a module of `theory.closed_form` lists in `SPECTRA`.

    Attributes:
        message: What a request says of it, with a field `kind`; the formula takes the other fields by their names.
        example: The fields `model` and `data` of a small request.
        samples: What it reads: "vectors", "sequences" of numbers, or "none".
        row_widths: Numbers in each row of x and of y, None where a sample is one number. Of vectors alone; None: every
            sample is one number.
        num_derived: Numbers that the formula derives from weights and inputs x at a cost that others would notice:
            entries of a matrix that it diagonalises, for example. None: it derives none.
        position: Where it stands in lists of kinds; new ones come last, in the order of their names.
    """

    message: type[ModelMessage]
    example: Mapping[str, Any]
    samples: Samples = "vectors"
    row_widths: Callable[[Any], tuple[int | None, int | None]] | None = None
    num_derived: Callable[[Any, Any], int] | None = None
    position: int = 100

    @property
    def name(self) -> str:
        """The value of the message's field `kind`."""
        return kind_name(self.message)


def kind_name(message: type[RequestMessage]) -> str:
    """Return the only value of the field `kind`."""
    (name,) = message.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
    return str(name)


def kind_of(model: ModelMessage) -> ModelKind:
    """Return the entry of the kind of a job's model."""
    return model.job_kind


def parameter_shapes(model: ModelMessage) -> Shapes:
    """Return the shape of each parameter of the model."""
    return kind_of(model).parameter_shapes(model)


def block_shapes(model: ModelMessage, globs: Mapping[Location, str]) -> Shapes:
    """Shapes of the parameters whose names match one of the globs.

    Args:
        model: ModelMessage of the request.
        globs: Globs (*, ?, [...]; case-sensitive) by their location in the request; empty selects all parameters.

    Returns:
        Shapes by name, in the model's order.

    Raises:
        ValidationError: At the location of a glob that matches no name.
    """
    shapes = parameter_shapes(model)
    if not globs:
        return shapes
    chosen = {name for location, glob in globs.items() for name in matching_names(shapes, location, glob)}
    return {name: size for name, size in shapes.items() if name in chosen}


def block_dims(model: ModelMessage, globs: Mapping[Location, str]) -> tuple[int, ...]:
    """Number of entries of all these parameters together, followed by those of each glob.

    Args:
        model: ModelMessage of the request.
        globs: Globs (*, ?, [...]; case-sensitive) by their location in the request; empty selects all parameters.

    Returns:
        The numbers of entries.

    Raises:
        ValidationError: At the location of a glob that matches no name.
    """
    sizes = {name: prod(size) for name, size in parameter_shapes(model).items()}
    if not globs:
        return (sum(sizes.values()),)
    blocks = [matching_names(sizes, location, glob) for location, glob in globs.items()]
    chosen = blocks if len(blocks) == 1 else [{name for names in blocks for name in names}, *blocks]
    return tuple(sum(map(sizes.__getitem__, names)) for names in chosen)


def matching_names(names: Mapping[str, object], location: Location, glob: str) -> list[str]:
    """Return the names that match a glob.

    Args:
        names: Names of all parameters.
        location: Location of the glob in the request.
        glob: The glob.

    Returns:
        The matching names.

    Raises:
        ValidationError: At the location of a glob that matches none.
    """
    matching = list(filter(re.compile(translate(glob)).match, names))
    if not matching:
        raise misfit(*location, message=f"no parameter has such a name; there are {_listed(names)}")
    return matching


def _listed(shapes: Mapping[str, object]) -> str:
    names = list(shapes)
    rest = len(names) - _MAX_NAMES_SHOWN
    return ", ".join(names[:_MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
