"""Results of figures: numbers, what is drawn of them, and what they say about the claims of the source."""

from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message, described

Cell = bool | int | float | str | None
"""A value in a row of numbers; null where there is none."""

AxisScale = Literal["linear", "log", "symlog"]

CurveStyle = Literal["line", "dashed", "markers", "line-markers", "step", "bars", "horizontal", "vertical"]


class Curve(Message):
    """Numbers that are drawn together."""

    label: str = Field(description="Name in the legend; empty for none.")
    x: list[float] = Field(description="Positions along the horizontal axis; empty for a horizontal line.")
    y: list[float | None] = Field(
        description="Values at these positions, null where there is none; a horizontal line has one, a vertical none."
    )
    lower: list[float | None] | None = Field(default=None, description="Lower ends of the intervals; null for none.")
    upper: list[float | None] | None = Field(default=None, description="Upper ends of the intervals; null for none.")
    style: CurveStyle = Field(default="line-markers", description="How the curve is drawn.")
    group: int | None = Field(
        default=None, description="Curves of one group have one colour; null gives the curve a colour of its own."
    )


class Panel(Message):
    """One pair of axes of a picture."""

    title: str = Field(description="Title of the panel.")
    x_label: str = Field(description="Label of the horizontal axis.")
    y_label: str = Field(description="Label of the vertical axis.")
    x_scale: AxisScale = Field(default="linear", description="Scale of the horizontal axis.")
    y_scale: AxisScale = Field(default="linear", description="Scale of the vertical axis.")
    x_categories: list[str] | None = Field(
        default=None, description="Names of the positions 0, 1, ... on the horizontal axis; null if it has numbers."
    )
    y_limits: list[float] | None = Field(
        default=None, min_length=2, max_length=2, description="Ends of the vertical axis; null shows everything."
    )
    curves: list[Curve] = Field(description="Curves that are drawn on these axes.")


class Variant(Message):
    """A verdict under another choice, where the source leaves one open, or for another seed."""

    choice: str = Field(description="The other choice, in words.")
    holds: bool | None = Field(description="Whether the claim holds under it; null if the numbers do not decide.")
    value: float | None = Field(description="The value found; null if it does not exist.")
    lower: float | None = Field(description="Lower end of its 95 % interval; null if there is none.")
    upper: float | None = Field(description="Upper end of its 95 % interval; null if there is none.")
    note: str | None = Field(default=None, description="Why there is no value or no interval; null for nothing.")


class Verdict(Message):
    """A claim of the source, checked on the numbers."""

    claim: str = Field(description="The claim, in the words of the source or close to them.")
    holds: bool | None = Field(description="Whether it holds; null if the numbers do not decide.")
    quantity: str = Field(description="The quantity whose value is given.")
    value: float | None = Field(description="The value found; null if it does not exist.")
    lower: float | None = Field(description="Lower end of its 95 % interval; null if there is none.")
    upper: float | None = Field(description="Upper end of its 95 % interval; null if there is none.")
    threshold: float | None = Field(
        description="The value that decides, the smaller one if there are two; null if none does."
    )
    threshold_upper: float | None = Field(
        default=None, description="The larger value if the claim holds between two; null if one value decides."
    )
    note: str | None = Field(default=None, description="What a reader must know beside it; null for nothing.")
    variants: list[Variant] = Field(
        default=[], description="The same claim under other choices or seeds, where it depends on them."
    )


class Choice(Message):
    """A choice that the source leaves open, or a correction of what it prints."""

    name: str = Field(description="What is chosen, if possible the name of a parameter.")
    value: str = Field(description="The choice that was made.")
    reason: str = Field(
        pattern=described(r"^[A-Z].*\.$", "must begin with a capital letter and end with a full stop"),
        description="Why it was made, in one or more sentences.",
    )
