"""A logger that writes into a run of MLflow."""

from collections.abc import Mapping
from time import time_ns
from typing import Any

from hessian_spectrum.client.loggers.histogram import Histogram
from hessian_spectrum.client.loggers.result_logger import PREFIX, ResultLogger, import_tool

_EXTRA = "mlflow"


class MlflowLogger(ResultLogger):
    """Writes metrics and tags; MLflow has no histograms, so they are artifacts `<prefix>/eigenvalues-<step>.json`.

    Args:
        run_id: Id of the run, which stays open.
        client: An `MlflowClient`; None: one of the current tracking URI.
        prefix: First part of all names.

    Raises:
        ImportError: If MLflow is not installed.
    """

    def __init__(self, run_id: str, client: Any = None, prefix: str = PREFIX) -> None:
        super().__init__(prefix)
        self._entities = import_tool("mlflow.entities", _EXTRA)
        self._client = import_tool("mlflow", _EXTRA).MlflowClient() if client is None else client
        self._run_id = run_id

    def close(self) -> None:
        """Do nothing: all is written, and the run stays open."""

    def _write_settings(self, settings: Mapping[str, str]) -> None:
        tags = [self._entities.RunTag(f"{self._prefix}.{name}", value) for name, value in settings.items()]
        self._client.log_batch(self._run_id, tags=tags)

    def _write_point(self, step: int, scalars: Mapping[str, float], histogram: Histogram | None) -> None:
        now = time_ns() // 1_000_000
        metrics = [self._entities.Metric(f"{self._prefix}/{name}", value, now, step) for name, value in scalars.items()]
        self._client.log_batch(self._run_id, metrics=metrics)
        if histogram is not None:
            content = {"edges": histogram.edges.tolist(), "counts": histogram.counts.tolist()}
            self._client.log_dict(self._run_id, content, f"{self._prefix}/eigenvalues-{step}.json")
