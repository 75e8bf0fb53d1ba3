"""A figure of a source: its numbers, a picture, and verdicts on what the source says about it."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.experiments.kind import ExperimentKind, ExperimentRequest, ExperimentResult
from hessian_spectrum.api_schemas.figures import FIGURES, FigureParameters, Measurement, Scale
from hessian_spectrum.api_schemas.figures.results import Cell, Choice, Panel, Verdict
from hessian_spectrum.api_schemas.message import AnyValue, Message, misfit, moved


def _known(name: str) -> str:
    if name not in FIGURES:
        raise misfit(message=f"there is no such figure; there are {', '.join(FIGURES)}")
    return name


class FigureRequest(ExperimentRequest):
    """Request to compute a figure of a source, at its own sizes or at smaller ones."""

    kind: Literal["figure"]
    figure: Annotated[str, AfterValidator(_known)] = Field(
        description="Name of the figure, as `GET /v1/figures` lists it.", json_schema_extra={"examples": ["cracking-1"]}
    )
    scale: Scale = Field(
        default="quick",
        description="Sizes of networks, data and samples: `paper` takes those of the source, `quick` smaller ones.",
    )
    overrides: dict[str, AnyValue] = Field(
        default={}, description="Values of single parameters, by the names that `GET /v1/figures` lists."
    )

    @property
    def seconds(self) -> float:
        """Predicted time on two cores, in seconds, good to a factor of two."""
        return sum(each.cost.seconds for each in self._measurements)

    @property
    def gpu_seconds(self) -> float:
        """The part of the predicted time that a GPU may shorten."""
        return sum(each.cost.seconds for each in self._measurements if each.can_use_gpu)

    @property
    def _measurements(self) -> list[Measurement]:
        return [each for each in self.computations if isinstance(each, Measurement)]

    @property
    def summary(self) -> str:
        """What the job computes, in a few words."""
        return f"{self.figure}, {self.scale}"

    @property
    def location_of_sizes(self) -> tuple[str, ...]:
        """The scale, or the overrides if they change anything."""
        figure = FIGURES[self.figure]
        usual = figure.parameters.model_validate(figure.defaults(self.scale))
        return ("scale",) if self.chosen == usual else ("overrides",)

    @property
    def chosen(self) -> FigureParameters:
        """The parameters of the figure: its defaults at the scale, and the overrides."""
        figure = FIGURES[self.figure]
        return figure.parameters.model_validate(figure.defaults(self.scale) | self.overrides)

    @model_validator(mode="after")
    def _points_are_requests(self, info: ValidationInfo) -> Self:
        """Check the overrides, and fill in what follows from them, such as the digest of a checkpoint."""
        figure = FIGURES[self.figure]
        self._check_names(figure.parameters.model_fields)
        try:
            values = figure.defaults(self.scale) | self.overrides
            chosen = figure.parameters.model_validate(values, context=info.context)
            figure.points(chosen)
        except ValidationError as error:
            raise moved(error, "overrides") from None
        found = {name: value for name, value in chosen.model_dump().items() if name in chosen.model_fields_set}
        return self.model_copy(update={"overrides": found}) if info.context else self

    def _check_names(self, names: Collection[str]) -> None:
        for name in self.overrides:
            if name not in names:
                similar = get_close_matches(name, names, n=1)
                hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(names)}"
                raise misfit("overrides", name, message=f"no such parameter of {self.figure}; {hint}")

    def settled(self) -> Mapping[str, Any]:
        """All parameters, so that two ways of writing them are the same request."""
        return {"overrides": self.chosen.canonical().model_dump()}


class FigureResult(ExperimentResult):
    """A figure: the numbers with their uncertainties, what is drawn of them, and verdicts on the source's claims."""

    kind: Literal["figure"] = "figure"
    figure: str = Field(description="Name of the figure.")
    title: str = Field(description="Title, in a few words.")
    source: str = Field(description="Where it is printed.")
    scale: Scale = Field(description="The scale of the parameters that were not overridden.")
    parameters: dict[str, Any] = Field(description="All parameters, with overrides.")
    points: list[dict[str, Cell]] = Field(description="The numbers, one row for each point.")
    panels: list[Panel] = Field(description="What the picture shows.")
    verdicts: list[Verdict] = Field(description="Claims of the source, checked on the numbers.")
    choices: list[Choice] = Field(description="Choices that the source leaves open, and corrections of its print.")
    wall_time_seconds: float = Field(description="Time that the measurements took, in seconds, over all workers.")


class FigureEstimate(Message):
    """The predicted cost of a figure at one scale."""

    num_points: int = Field(description="Number of measurements that the figure needs.")
    num_parameters: int = Field(description="Number of parameters of the largest network.")
    peak_bytes: int = Field(description="Peak memory of a worker process, in bytes.")
    seconds: float | None = Field(
        description="Time in seconds on two cores of a server, good to a factor of two; null if it is not known."
    )


class FigureDescription(Message):
    """A figure that jobs of kind `figure` compute."""

    figure: str = Field(description="Name of the figure in requests.")
    title: str = Field(description="Title, in a few words.")
    source: str = Field(description="Where it is printed and described.")
    parameters: dict[str, Any] = Field(
        description="JSON schema of its parameters; the defaults are the values of the source."
    )
    quick: dict[str, Any] = Field(description="Values of the parameters that differ at the scale `quick`.")
    estimates: dict[Scale, FigureEstimate] = Field(description="Predicted cost at each scale.")


class FigureList(Message):
    """All figures that this server computes."""

    figures: list[FigureDescription] = Field(description="Figures in the order of their sources.")


def _points(request: FigureRequest) -> Sequence[Measurement]:
    return FIGURES[request.figure].points(request.chosen)


EXPERIMENTS = (
    ExperimentKind(
        FigureRequest,
        FigureResult,
        _points,
        None,
        example={"kind": "figure", "figure": "cracking-1", "scale": "quick"},
        position=3,
    ),
)
