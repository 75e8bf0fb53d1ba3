"""Choices of all figures: reasons are sentences."""

import ast
from pathlib import Path

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.figures.results import Choice
from hessian_spectrum.worker import figures

FILES = sorted(Path(figures.__path__[0]).glob("*.py"))


def reasons(path: Path) -> list[ast.expr]:
    """Reasons of choices in a file, and what is assigned to a variable `reason`."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Choice":
            found += [each.value for each in node.keywords if each.arg == "reason"]
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason":
            found.append(node.value)
    return [each for each in found if not isinstance(each, ast.Name)]


def text(expression: ast.expr) -> str:
    """A text whose inserted values are replaced by 0."""
    parts = expression.values if isinstance(expression, ast.JoinedStr) else [expression]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in parts)


def test_reasons_of_choices_of_all_figures_are_sentences() -> None:
    found = [text(reason) for path in FILES for reason in reasons(path)]
    assert len(found) > 40
    for each in found:
        assert Choice(name="a", value="b", reason=each).reason == each


@pytest.mark.parametrize("reason", ["", "not printed.", "Not printed", "the source"])
def test_a_reason_that_is_no_sentence_is_refused(reason: str) -> None:
    with pytest.raises(ValidationError):
        Choice(name="a", value="b", reason=reason)
