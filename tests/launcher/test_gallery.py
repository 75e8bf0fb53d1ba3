"""The gallery of figures: pictures, tables and verdicts, and what it says of figures that cannot be computed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hessian_spectrum.api_schemas.experiments.figure import FigureResult
from hessian_spectrum.api_schemas.figures.results import Variant, Verdict
from hessian_spectrum.launcher.gallery import figure_page, thresholds
from hessian_spectrum.launcher.main import app

SERVER = Path(sys.executable).with_name("spectrum-server")


@pytest.mark.slow
def test_a_gallery_has_every_figure_that_can_be_computed(tmp_path: Path) -> None:
    overrides = json.dumps({"num_seeds": 3})
    command = [str(SERVER), "figures", "poster-bulk", "cracking-3", "--overrides", overrides, "--output", str(tmp_path)]
    done = subprocess.run([*command, "--workers", "1"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "these figures could not be computed: cracking-3" in done.stderr
    gallery = (tmp_path / "gallery.md").read_text()
    assert "![Bulk and outliers of a two-layer ReLU network](poster-bulk.png)" in gallery
    assert "## cracking-3\n\nIt could not be computed: 422 Invalid request" in gallery
    assert (tmp_path / "poster-bulk.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((tmp_path / "poster-bulk.json").read_text())
    assert document["parameters"]["num_seeds"] == 3
    assert len(document["verdicts"]) == gallery.count("| holds |") + gallery.count("| does not hold |") + gallery.count(
        "| not decided |"
    )
    assert (tmp_path / "poster-bulk.csv").read_text().count("\n") > 1


@pytest.mark.slow
def test_a_signal_ends_it_in_the_middle_of_a_figure(tmp_path: Path) -> None:
    command = [str(SERVER), "figures", "lecture-6", "--scale", "paper", "--output", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while '"claimed"' not in (log.read_text() if (log := tmp_path / "stack.log").exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped by a signal" in errors


def test_worker_time_of_kept_measurements_is_not_called_a_part_of_the_time_of_this_job() -> None:
    result = FigureResult.model_construct(
        figure="cracking-16", title="Title", source="Source", scale="paper", parameters={}, points=[], panels=[],
        verdicts=[], choices=[], wall_time_seconds=80.0,
    )  # fmt: skip
    page = figure_page(result, 7.0, {"dims": [1, 2]})
    assert "Computed in 7 s." in page
    assert "kept from earlier jobs, took 80 s of worker time." in page
    assert "of which workers" not in page
    assert 'Overrides: `{"dims": [1, 2]}`.' in page


def test_variants_have_a_list_of_their_own() -> None:
    numbers = {"value": 1.0, "lower": 0.5, "upper": 1.5}
    variants = [Variant(choice=f"seed {seed}", holds=True, **numbers) for seed in range(20)]
    verdicts = [Verdict(claim="It grows.", quantity="a ratio", threshold=0.0, holds=True, variants=variants, **numbers)]
    result = FigureResult.model_construct(
        figure="cracking-16", title="Title", source="Source", scale="paper", parameters={}, points=[], panels=[],
        verdicts=verdicts, choices=[], wall_time_seconds=80.0,
    )  # fmt: skip
    lines = figure_page(result, 7.0, {}).splitlines()
    assert "| It grows.<br>(a ratio) | holds | 1 [0.5, 1.5] | 0 |" in lines
    start = lines.index("- It grows.")
    assert lines[start + 1] == "    - seed 0: holds (1 [0.5, 1.5])"
    assert lines[start + 20] == "    - seed 19: holds (1 [0.5, 1.5])"


@pytest.mark.parametrize(
    ("ends", "shown"), [((0.95, 1.05), "0.95 to 1.05"), ((0.5, None), "0.5"), ((0.0, None), "0"), ((None, None), "")]
)
def test_thresholds_of_a_verdict_are_shown(ends: tuple[float | None, float | None], shown: str) -> None:
    numbers = dict.fromkeys(("value", "lower", "upper", "holds"))
    made = Verdict(claim="a", quantity="b", threshold=ends[0], threshold_upper=ends[1], **numbers)
    assert thresholds(made) == shown


@pytest.mark.parametrize("overrides", ["[1]", "{", "3"])
def test_overrides_are_a_json_object(overrides: str, tmp_path: Path) -> None:
    arguments = ["figures", "poster-bulk", "--overrides", overrides, "--output", str(tmp_path / "gallery")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 2
    assert "must be a JSON object" in " ".join(found.output.split())
    assert not (tmp_path / "gallery").exists()
