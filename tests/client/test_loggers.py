"""Loggers write results into real runs of other tools, and the tools read them."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.api_schemas.experiments.series import SeriesResult
from hessian_spectrum.api_schemas.methods import ExactResult, LanczosResult
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.loggers import MlflowLogger, TensorBoardLogger, WandbLogger
from hessian_spectrum.client.loggers.histogram import histogram_of
from hessian_spectrum.client.loggers.result_logger import scalars_of

JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [4, 6, 2], "activation": "tanh"},
    "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 4, "output_dim": 2},
    "loss": "mse",
}
METHODS: dict[str, dict[str, Any]] = {
    "exact": {},
    "lanczos": {"num_steps": 20, "num_probes": 2},
    "top-k": {"k": 2},
    "trace": {},
}
NAMES = {
    "exact": {"loss", "largest", "smallest", "trace"},
    "lanczos": {"loss", "largest", "smallest", "trace", "frobenius"},
    "top-k": {"loss", "largest"},
    "trace": {"loss", "trace", "frobenius"},
}
ESTIMATE = {"value": 3.0, "standard_error": 0.1, "lower": 2.5, "upper": None, "why": "unknown"}
SERIES = SeriesResult.model_validate(
    {
        "name": "run-7",
        "matrix": "hessian",
        "num_parameters": 44,
        "methods": {"trace": "0" * 64},
        "provenance": [],
        "points": [
            {"step": 0, "learning_rate": 0.5, "stability_threshold": 4.0, "loss": 2.0, "trace": ESTIMATE},
            {"step": 50, "problem": "parameters are not finite"},
            {"step": 100, "loss": 1.0, "largest": ESTIMATE | {"upper": 3.5, "why": None}},
        ],
    }
)


@pytest.fixture(scope="module")
def results(server: Any) -> dict[str, Any]:
    with SpectrumClient(server.url) as client:
        return {kind: client.run(JOB | {"method": {"kind": kind} | options}) for kind, options in METHODS.items()}


@pytest.mark.parametrize("kind", METHODS)
def test_scalars_are_the_numbers_of_the_method_with_their_intervals(results: dict[str, Any], kind: str) -> None:
    result = results[kind]
    scalars = scalars_of(result)
    assert {name for name in scalars if not name.endswith(("_lower", "_upper"))} == NAMES[kind]
    assert scalars["loss"] == result.loss
    for name in NAMES[kind] - {"loss"}:
        assert scalars[f"{name}_lower"] <= scalars[name] <= scalars[f"{name}_upper"]


def test_scalars_of_a_series_leave_out_what_is_unknown() -> None:
    first, _, last = map(scalars_of, SERIES.points)
    known = {"loss": 2.0, "trace": 3.0, "trace_lower": 2.5, "learning_rate": 0.5, "stability_threshold": 4.0}
    assert first == known
    assert last == {"loss": 1.0, "largest": 3.0, "largest_lower": 2.5, "largest_upper": 3.5}


def test_histograms_count_every_eigenvalue(results: dict[str, Any]) -> None:
    exact, lanczos = results["exact"], results["lanczos"]
    assert isinstance(exact, ExactResult)
    assert isinstance(lanczos, LanczosResult)
    found = histogram_of(exact, exact.num_parameters)
    assert found is not None
    assert found.counts.sum() == exact.num_parameters == 44
    assert (found.edges[0], found.edges[-1]) == (exact.eigenvalues[0], exact.eigenvalues[-1])
    estimated = histogram_of(lanczos, lanczos.num_parameters)
    assert estimated is not None
    assert estimated.counts.sum() == pytest.approx(44, rel=1e-3)
    width = estimated.edges[1] - estimated.edges[0]
    assert estimated.counts @ estimated.centres == pytest.approx(lanczos.trace.value, abs=44 * width)
    assert histogram_of(results["trace"], 44) is None
    assert histogram_of(SERIES.points[0], 44) is None


def test_tensorboard_reads_its_event_files(results: dict[str, Any], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardLogger(tmp_path) as logger:
        for step, kind in enumerate(METHODS):
            logger.log(results[kind], step)
        logger.log(results["lanczos"], 200)
    with TensorBoardLogger(tmp_path, prefix="run-7") as logger:
        logger.log_series(SERIES)
    read = EventAccumulator(str(tmp_path), {"histograms": 0, "tensors": 0}).Reload()  # without leaving out any
    largest = {event.step: event.value for event in read.Scalars("spectrum/largest")}
    assert largest == {
        step: pytest.approx(scalars_of(results[kind])["largest"], rel=1e-6)
        for step, kind in ((0, "exact"), (1, "lanczos"), (2, "top-k"), (200, "lanczos"))
    }
    assert [(event.step, event.value) for event in read.Scalars("run-7/loss")] == [(0, 2.0), (100, 1.0)]
    histograms = {event.step: event.histogram_value for event in read.Histograms("spectrum/eigenvalues")}
    assert set(histograms) == {0, 1, 200}
    assert histograms[0].num == sum(histograms[0].bucket) == 44
    exact = results["exact"].eigenvalues
    assert histograms[0].bucket_limit == pytest.approx(np.linspace(exact[0], exact[-1], 65))
    settings = [event.tensor_proto.string_val[0].decode() for event in read.Tensors("spectrum/settings")]
    assert len(settings) == 5  # the methods differ
    assert "| matrix | hessian |" in settings[0]
    assert "| versions.torch |" in settings[0]


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow prefers a database, which needs further packages
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tmp_path.as_uri())


def test_mlflow_reads_its_metrics_tags_and_artifacts(
    results: dict[str, Any], mlflow_client: Any, tmp_path: Path
) -> None:
    run_id = mlflow_client.create_run(mlflow_client.create_experiment("spectra")).info.run_id
    with MlflowLogger(run_id, mlflow_client) as logger:
        logger.log(results["lanczos"], 10)
        logger.log(results["lanczos"], 20)
        logger.log(results["top-k"], 30)
    MlflowLogger(run_id, mlflow_client, prefix="run-7").log_series(SERIES)
    history = mlflow_client.get_metric_history(run_id, "spectrum/largest")
    expected = [scalars_of(results[kind])["largest"] for kind in ("lanczos", "lanczos", "top-k")]
    assert [(metric.step, metric.value) for metric in history] == list(zip((10, 20, 30), expected, strict=True))
    assert [metric.step for metric in mlflow_client.get_metric_history(run_id, "run-7/loss")] == [0, 100]
    run = mlflow_client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert (run.data.tags["spectrum.matrix"], run.data.tags["run-7.series"]) == ("hessian", "run-7")
    paths = {file.path for file in mlflow_client.list_artifacts(run_id, "spectrum")}
    assert paths == {"spectrum/eigenvalues-10.json", "spectrum/eigenvalues-20.json"}
    content = json.loads(Path(mlflow_client.download_artifacts(run_id, min(paths), str(tmp_path))).read_text())
    assert sum(content["counts"]) == pytest.approx(44, rel=1e-3)


def offline_records(path: Path) -> Iterator[Any]:
    """Records of a file of Weights & Biases: in blocks of 32 KiB, chunks with checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


@pytest.mark.filterwarnings("default")  # of wandb's own dependencies
def test_weights_and_biases_keeps_results_offline(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(mode="offline", dir=str(tmp_path), project="spectra", settings=settings)
    with WandbLogger(run) as logger:
        logger.log(results["lanczos"], 100)
        logger.log(results["trace"], 50)  # it came later
    WandbLogger(run, prefix="run-7").log_series(SERIES)
    config = run.config.as_dict()
    run.finish()
    wandb.teardown()
    assert config["spectrum"]["matrix"] == "hessian"
    assert config["run-7"]["series"] == "run-7"
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = list(offline_records(file))
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [row["spectrum/step"] for row in rows[:2]] == [100, 50]
    assert rows[0]["spectrum/largest"] == results["lanczos"].largest.value
    assert rows[0]["spectrum/eigenvalues/_type"] == "histogram"
    assert sum(rows[0]["spectrum/eigenvalues/values"]) == pytest.approx(44, rel=1e-3)
    assert [row["run-7/loss"] for row in rows[2:]] == [2.0, 1.0]
    axes = {record.metric.glob_name: record.metric.step_metric for record in records if record.metric.glob_name}
    assert axes == {"spectrum/*": "spectrum/step", "run-7/*": "run-7/step"}


@pytest.mark.parametrize(
    ("missing", "make"),
    [
        ("tensorboard", lambda: TensorBoardLogger("/nowhere")),
        ("wandb", lambda: WandbLogger(None)),
        ("mlflow", lambda: MlflowLogger("0")),
    ],
)
def test_a_tool_that_is_not_installed_is_named(missing: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"pip install \./api_schemas '\./client\[{missing}\]'"):
        make()
