"""Networks of users: programs of torch.export or ONNX that were uploaded."""

from math import prod
from typing import Any, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.artifacts import (
    CONTEXT,
    ArtifactCatalog,
    ArtifactError,
    ArtifactId,
    ProgramArtifact,
    ProgramInput,
    ProgramParameter,
    arrays_of,
    listed,
)
from hessian_spectrum.api_schemas.message import RequestMessage, misfit
from hessian_spectrum.api_schemas.models.kind import ModelKind, ModelMessage, Shapes, matching_names
from hessian_spectrum.planning.size import Size, Sort, counted_size


class StoredProgram(RequestMessage):
    """A program that was uploaded as a .pt2 or ONNX file."""

    kind: Literal["artifact"]
    id: ArtifactId


class StoredParameters(RequestMessage):
    """Parameters of a program in an uploaded safetensors or npz file, by their names in the network."""

    kind: Literal["artifact"]
    id: ArtifactId


def _describe_as_resolved(schema: dict[str, Any]) -> None:
    schema["required"] = ["kind", "program"]


_RESOLVED = {
    "parameter_list": "parameters",
    "inputs": "inputs",
    "output": "output",
    "num_samples": "num_samples",
    "numbers_per_sample": "numbers_per_sample",
    "numbers_per_pair": "numbers_per_pair",
    "mixes_samples": "mixes_samples",
}
"""Fields that are filled in, with the names that the description of the artifact has for them."""


class Exported(ModelMessage):
    """Your own network: a program of torch.export or an ONNX file that was uploaded as an artifact.

    The server fills in the fields that follow from the program. Values that a request states must agree.
    """

    model_config = ConfigDict(json_schema_extra=_describe_as_resolved)

    kind: Literal["exported"]
    program: StoredProgram = Field(description="The uploaded program, referred to by its id.")
    parameters: StoredParameters | None = Field(
        default=None,
        description="Uploaded parameters that replace those of the program; null means those of the program.",
    )
    trainable: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Glob (*, ?, [...]) on the names of the parameters that are differentiated; the others are "
        "constants. null means those that the description of the program lists as trainable.",
    )
    parameter_list: list[ProgramParameter] = Field(
        description="Names and shapes of all parameters, which the server fills in from the program."
    )
    inputs: list[ProgramInput] = Field(description="Inputs of the program, which the server fills in.")
    output: ProgramInput = Field(description="Output of the program, which the server fills in.")
    num_samples: int | None = Field(
        default=None,
        description="Number of samples that the program evaluates at a time, which the server fills in; null if it "
        "accepts any.",
    )
    numbers_per_sample: dict[Sort, NonNegativeInt] = Field(
        description="Numbers that a forward pass produces for each sample, by the sort of operator that produces them, "
        "which the server fills in."
    )
    numbers_per_pair: dict[Sort, NonNegativeInt] = Field(
        default_factory=dict, description="Numbers for each pair of samples, which the server fills in."
    )
    mixes_samples: bool = Field(
        default=False,
        description="Whether the output of a sample depends on other samples, so that all are evaluated together; the "
        "server fills it in.",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_program(cls, fields: Any, info: ValidationInfo) -> Any:
        catalog: ArtifactCatalog | None = (info.context or {}).get(CONTEXT)
        reference = fields.get("program") if isinstance(fields, dict) else None
        if catalog is None or not isinstance(reference, dict) or not isinstance(reference.get("id"), str):
            return fields
        try:
            program = catalog.program(reference["id"])
        except ArtifactError as error:
            raise misfit("program", "id", message=str(error)) from None
        _check_parameters(fields.get("parameters"), program, info)
        described = program.model_dump()
        known = {name: described[source] for name, source in _RESOLVED.items()}
        for name, value in known.items():
            if fields.get(name) not in (None, value):
                raise misfit(
                    name, message="differs from the uploaded program: leave it out, and the server fills it in"
                )
        return fields | known

    @property
    def shapes(self) -> Shapes:
        """Shapes of the parameters that are differentiated, by name."""
        if self.trainable is None:
            return {each.name: tuple(each.shape) for each in self.parameter_list if each.trainable}
        names = {each.name: tuple(each.shape) for each in self.parameter_list}
        return {name: names[name] for name in matching_names(names, ("model", "trainable"), self.trainable)}


def _check_parameters(reference: Any, program: ProgramArtifact, info: ValidationInfo) -> None:
    """Check that uploaded parameters have the names and shapes of a program's."""
    arrays = arrays_of(reference, info, "parameters")
    if arrays is None:
        return
    shapes = {each.name: each.shape for each in program.parameters}
    missing, unknown = shapes.keys() - arrays.keys(), arrays.keys() - shapes.keys()
    if missing or unknown:
        what = f"lacks {listed(missing)}" if missing else f"holds {listed(unknown)}, which the program does not have"
        raise misfit("parameters", "id", message=what)
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise misfit("parameters", "id", message=f"{name} has shape {array.shape}, in the program {shapes[name]}")


def _size(model: Exported, num_samples: int, _length: int) -> Size:
    num_parameters = sum(map(prod, model.shapes.values()))
    return counted_size(
        num_parameters,
        num_samples,
        model.numbers_per_sample,
        numbers_per_pair=model.numbers_per_pair,
        mixes_samples=model.mixes_samples,
    )


def _check(model: Exported) -> None:
    if not model.shapes:
        message = "no parameter of the program is differentiated: give a glob on names of parameters"
        raise misfit("model", "trainable", message=message)


KINDS = (
    ModelKind(
        Exported,
        lambda model: model.shapes,
        _size,
        example={
            "model": {"kind": "exported", "program": {"kind": "artifact", "id": 64 * "0"}},
            "data": {"kind": "artifact", "id": 64 * "1"},
            "loss": "cross-entropy",
        },
        samples="arrays",
        samples_at_once=lambda model: model.num_samples,
        check=_check,
    ),
)
