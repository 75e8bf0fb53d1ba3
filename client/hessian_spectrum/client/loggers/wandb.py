"""A logger that writes into a run of Weights & Biases."""

from collections.abc import Mapping
from typing import Any

from hessian_spectrum.client.loggers.histogram import Histogram
from hessian_spectrum.client.loggers.result_logger import PREFIX, ResultLogger, import_tool


class WandbLogger(ResultLogger):
    """Writes into a run, online or offline.

    The step is a metric of its own, `<prefix>/step`, and the axis of the others: the run's own steps must not decrease,
    while results may come in any order, long after their steps of training.

    Args:
        run: The run, as `wandb.init` returns it; it stays open.
        prefix: First part of all names of metrics, and the key of the settings in the config of the run.

    Raises:
        ImportError: If Weights & Biases is not installed.
    """

    def __init__(self, run: Any, prefix: str = PREFIX) -> None:
        super().__init__(prefix)
        self._histogram = import_tool("wandb", "wandb").Histogram
        self._run = run
        self._run.define_metric(f"{prefix}/step")
        self._run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")

    def close(self) -> None:
        """Do nothing: all is written, and the run stays open."""

    def _write_settings(self, settings: Mapping[str, str]) -> None:
        self._run.config.update({self._prefix: dict(settings)}, allow_val_change=True)

    def _write_point(self, step: int, scalars: Mapping[str, float], histogram: Histogram | None) -> None:
        values: dict[str, Any] = {"step": step, **scalars}
        if histogram is not None:
            values["eigenvalues"] = self._histogram(np_histogram=(histogram.counts, histogram.edges))
        self._run.log({f"{self._prefix}/{name}": value for name, value in values.items()})
