"""Lists of points and choices of figures have no entry twice, which would count as an independent one."""

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.experiments.figure import FigureRequest
from hessian_spectrum.api_schemas.figures import FIGURES

MAY_REPEAT = {"sequence", "slopes", "measure_every"}
"""Lists that are one number of a point, such as an input sequence; intervals of steps ascend by a rule of their own."""


def lists() -> list[tuple[str, str]]:
    return [
        (name, field)
        for name, figure in FIGURES.items()
        for field, value in figure.parameters().model_dump().items()
        if isinstance(value, list) and field not in MAY_REPEAT
    ]


@pytest.mark.parametrize(("figure", "field"), lists())
def test_entries_must_differ(figure: str, field: str) -> None:
    values = getattr(FIGURES[figure].parameters(), field)
    with pytest.raises(ValidationError) as caught:
        FigureRequest(kind="figure", figure=figure, overrides={field: [values[0], values[0], *values[1:-1]]})
    assert caught.value.errors()[0]["loc"] == ("overrides", field, 1)
