"""Samples in uploaded files: one artifact, or a data set in parts, with the scaling of stored numbers."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.artifacts import ArtifactId, StoredArray, arrays_of, joined, listed, stored_arrays
from hessian_spectrum.api_schemas.data.kind import DataMessage
from hessian_spectrum.api_schemas.message import RequestMessage, misfit

MAX_SAMPLE_DIMENSIONS = 8

MAX_PARTS = 512
"""Largest number of files of one data set; a worker has all of them open."""

MAX_FILES = 16
"""Largest number of files of one part, each with some of the arrays."""

TARGETS = "y"
"""Name of the array of targets; the other arrays are inputs."""


def _one_or_several(value: object) -> str:
    return "several" if isinstance(value, list) else "one"


_Positive = Annotated[float, Field(gt=0)]
_Centre = Annotated[
    Annotated[float, Tag("one")] | Annotated[list[float], Field(min_length=1, max_length=65_536), Tag("several")],
    Discriminator(_one_or_several),
]
_Spread = Annotated[
    Annotated[_Positive, Tag("one")]
    | Annotated[list[_Positive], Field(min_length=1, max_length=65_536), Tag("several")],
    Discriminator(_one_or_several),
]


class Scaling(RequestMessage):
    """Stored numbers as the network takes them: (scale * stored - mean) / std, computed in float64.

    For images in uint8, the scale is 1/255 if the network was trained on numbers from 0 to 1.
    """

    scale: float = Field(default=1.0, description="Factor on the stored numbers.")
    mean: _Centre = Field(
        default=0.0, description="Number that is subtracted from scale * stored, or one for each index along `axis`."
    )
    std: _Spread = Field(
        default=1.0, description="Number by which the difference is divided, or one for each index along `axis`."
    )
    axis: int = Field(
        default=1,
        ge=1,
        lt=MAX_SAMPLE_DIMENSIONS,
        description="Axis along which the entries of mean and std lie, where axis 0 is that of the samples: 1 for "
        "images with their channels first.",
    )

    @property
    def length(self) -> int | None:
        """Length along the axis that lists of mean and std imply; None without a list."""
        lengths = [len(each) for each in (self.mean, self.std) if isinstance(each, list)]
        return lengths[0] if lengths else None

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if isinstance(self.mean, list) and isinstance(self.std, list) and len(self.mean) != len(self.std):
            raise misfit("std", message=f"has {len(self.std)} entries, but mean has {len(self.mean)}")
        return self


class UploadedSamples(DataMessage):
    """Samples in uploaded files, with a description of the stored arrays.

    The array y holds the targets. The others are inputs: x, or several with the names of the inputs of the program.
    """

    reference: ClassVar[str]
    """Name of the field that refers to the files."""

    x: StoredArray | None = Field(
        default=None, description="Type and shape of the stored inputs x; null if the inputs have other names."
    )
    inputs: dict[str, StoredArray] = Field(
        default_factory=dict,
        description="Type and shape of each stored input by name, if the inputs are not one array x.",
    )
    y: StoredArray | None = Field(
        default=None, description="Type and shape of the stored targets; null if the loss needs none."
    )
    scaling: dict[str, Scaling] = Field(
        default_factory=dict,
        description="Scaling of arrays of real numbers by name; arrays without an entry are used as they are.",
    )

    @property
    def stored_inputs(self) -> Mapping[str, StoredArray]:
        """Inputs by name."""
        return self.inputs if self.x is None else {"x": self.x}

    @property
    def arrays(self) -> Mapping[str, StoredArray]:
        """Inputs and targets by name."""
        return {**self.stored_inputs, **({} if self.y is None else {TARGETS: self.y})}

    @property
    @abstractmethod
    def files(self) -> Sequence[Sequence[str]]:
        """Ids of the files that hold the samples: of each part in order those whose arrays belong together."""

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.stored_inputs.values())))

    @model_validator(mode="after")
    def _samples_that_belong_together(self) -> Self:
        if not self.stored_inputs:
            raise misfit("x", message="field required: the arrays of the file, which the server fills in")
        if self.x is not None and self.inputs:
            raise misfit("inputs", message="give either one array x, or several inputs with other names")
        for name, array in self.arrays.items():
            if len(array.shape) > MAX_SAMPLE_DIMENSIONS:
                raise misfit(
                    self.reference,
                    message=f"{name} has {len(array.shape)} dimensions; at most {MAX_SAMPLE_DIMENSIONS} are supported",
                )
            if len(array) != self.num_samples:
                first = next(iter(self.stored_inputs))
                message = f"{name} holds {len(array)} samples, {first} holds {self.num_samples}"
                raise misfit(self.reference, message=message)
        self._check_scaling()
        return self

    def _check_scaling(self) -> None:
        for name, scaling in self.scaling.items():
            array = self.arrays.get(name)
            if array is None:
                raise misfit("scaling", name, message=f"there is no such array; the file holds {listed(self.arrays)}")
            if scaling.length is None:
                continue
            have = array.shape[scaling.axis] if scaling.axis < len(array.shape) else None
            if have != scaling.length:
                message = f"{scaling.length} entries do not fit axis {scaling.axis} of an array of shape {array.shape}"
                raise misfit("scaling", name, message=message)


def _filled_in(fields: Any, arrays: Mapping[str, StoredArray], reference: str) -> Any:
    """Return the fields with the description of the arrays."""
    known = {name: array.model_dump() for name, array in arrays.items()}
    targets = known.pop(TARGETS, None)
    if not known:
        raise misfit(reference, message="holds no inputs: give the array x, or the inputs of the program")
    described = {"x": known.get("x"), "inputs": {}} if known.keys() == {"x"} else {"x": None, "inputs": known}
    described[TARGETS] = targets
    for name, value in described.items():
        if fields.get(name) not in (None, {}, value):
            raise misfit(name, message="differs from the uploaded file: leave it out, and the server fills it in")
    return fields | described


class ArrayData(UploadedSamples):
    """Samples in an uploaded file with the arrays x and y, of shapes as in `inline`, or in one file for each array.

    Inputs and targets of an exported program may have any shape. For a program with several inputs, the arrays have
    their names instead of x. The server fills in types and shapes; those that a request states must agree.
    """

    model_config = ConfigDict(json_schema_extra={"required": ["kind", "id"]})
    reference = "id"

    kind: Literal["artifact"]
    id: ArtifactId
    more: list[ArtifactId] = Field(
        default_factory=list,
        max_length=MAX_FILES - 1,
        description="Ids of further files with arrays of the same samples, such as y.npy beside x.npy.",
    )

    @property
    def files(self) -> Sequence[Sequence[str]]:
        """All files, as one part."""
        return [[self.id, *self.more]]

    @model_validator(mode="before")
    @classmethod
    def _with_arrays(cls, fields: Any, info: ValidationInfo) -> Any:
        arrays = arrays_of(fields, info)
        more = fields.get("more", []) if isinstance(fields, dict) else None
        if arrays is None or not isinstance(more, list) or len(more) >= MAX_FILES:
            return fields
        found = {**_with_samples(arrays, "id")}
        for index, each in enumerate(more):
            others = stored_arrays(each, info, "more", index) if isinstance(each, str) else None
            if others is None:
                return fields
            if repeated := found.keys() & others.keys():
                raise misfit("more", index, message=f"holds {listed(repeated)}, which an earlier file holds, too")
            found |= _with_samples(others, "more", index)
        return _filled_in(fields, found, "id")


class PartsData(UploadedSamples):
    """Samples in several uploaded files in order, each with the same arrays as a file of `artifact`.

    Each part is uploaded separately, so that an interrupted upload can continue with the missing parts.
    """

    model_config = ConfigDict(json_schema_extra={"required": ["kind", "parts"]})
    reference = "parts"

    kind: Literal["parts"]
    parts: list[ArtifactId] = Field(
        min_length=1, max_length=MAX_PARTS, description="Ids of the files in the order of their samples."
    )

    @property
    def files(self) -> Sequence[Sequence[str]]:
        """The parts, of one file each."""
        return [[each] for each in self.parts]

    @model_validator(mode="before")
    @classmethod
    def _with_arrays(cls, fields: Any, info: ValidationInfo) -> Any:
        ids = fields.get("parts") if isinstance(fields, dict) else None
        if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_PARTS:
            return fields
        parts: list[Mapping[str, StoredArray]] = []
        for index, each in enumerate(ids):
            arrays = stored_arrays(each, info, "parts", index) if isinstance(each, str) else None
            if arrays is None:
                return fields
            parts.append(_with_samples(arrays, "parts", index))
        return _filled_in(fields, _joined(parts), "parts")


def _with_samples(arrays: Mapping[str, StoredArray], *location: str | int) -> Mapping[str, StoredArray]:
    for name, array in arrays.items():
        if not array.shape:
            raise misfit(*location, message=f"{name} is a single number; the first axis must be that of the samples")
    return arrays


def _joined(parts: Sequence[Mapping[str, StoredArray]]) -> Mapping[str, StoredArray]:
    names = parts[0].keys()
    for index, part in enumerate(parts):
        if part.keys() != names:
            raise misfit("parts", index, message=f"holds {listed(part)}, but part 0 holds {listed(names)}")
    whole = {}
    for name in names:
        try:
            whole[name] = joined([part[name] for part in parts])
        except ValueError as error:
            raise misfit("parts", message=f"parts differ in {name}: {error}") from None
    return whole
