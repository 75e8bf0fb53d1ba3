"""The notebook of the docs: it runs as it is written, and what its cells print is short."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "client.ipynb"
MOST_LETTERS = 4000


@pytest.fixture(scope="module")
def executed(server: Any) -> Any:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    runner = ExecutePreprocessor(timeout=300, kernel_name="python3")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SPECTRUM_URL", server.url)
        runner.preprocess(notebook, {"metadata": {"path": str(NOTEBOOK.parent)}})
    return notebook


def outputs(notebook: Any) -> Iterator[tuple[str, str, str]]:
    """The source of each cell with the kind and the text of each of its outputs, pictures apart."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            parts = output.get("data", {"stream": output.get("text", "")})
            yield from ((cell.source, kind, str(text)) for kind, text in parts.items() if kind != "image/png")


def test_every_cell_prints_little(executed: Any) -> None:
    lengths = {source: len(text) for source, _, text in outputs(executed)}
    assert {source: length for source, length in lengths.items() if length > MOST_LETTERS} == {}
    assert len(lengths) > 15


def test_results_are_pictures(executed: Any) -> None:
    shown = {cell.source.splitlines()[-1]: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    for name in ("spectrum", "law", "result", "own", "series", "figure"):
        assert "image/png" in shown[name][-1]["data"], name
    assert "<table>" in shown["job"][-1]["data"]["text/html"]


def test_what_is_committed_has_been_run(executed: Any) -> None:
    """Its numbers are those of today: the ones that do not depend on the machine are compared."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.outputs for cell in committed.cells if cell.cell_type == "code" and "import" not in cell.source)
    for start in ("print(client.estimate", "spectrum.to_pandas"):
        cells = [[cell.outputs for cell in each.cells if start in cell.source] for each in (committed, executed)]
        texts = [str(found[0][0].get("text") or found[0][0]["data"]["text/plain"]) for found in cells]
        assert texts[0].split(";")[0] == texts[1].split(";")[0]
