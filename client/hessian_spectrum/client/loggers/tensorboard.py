"""A logger that writes event files for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

import numpy as np

from hessian_spectrum.client.loggers.histogram import Histogram
from hessian_spectrum.client.loggers.result_logger import PREFIX, ResultLogger, import_tool

_EXTRA = "tensorboard"


class TensorBoardLogger(ResultLogger):
    """Writes an event file, which TensorBoard shows with others of the same directory as one run.

    Args:
        directory: Directory of the run, which is created.
        prefix: First part of all tags.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, directory: Path | str, prefix: str = PREFIX) -> None:
        super().__init__(prefix)
        writers = import_tool("tensorboard.summary.writer.event_file_writer", _EXTRA)
        self._summary = import_tool("tensorboard.compat.proto.summary_pb2", _EXTRA)
        self._event = import_tool("tensorboard.compat.proto.event_pb2", _EXTRA).Event
        self._text = import_tool("tensorboard.plugins.text.summary", _EXTRA).text_pb
        self._writer = writers.EventFileWriter(str(directory))

    def close(self) -> None:
        """Write what is pending, and close the file."""
        self._writer.close()

    def _write_settings(self, settings: Mapping[str, str]) -> None:
        rows = [f"| {name} | {value} |" for name, value in settings.items()]
        self._write(0, self._text(f"{self._prefix}/settings", "\n".join(["| | |", "|---|---|", *rows])))

    def _write_point(self, step: int, scalars: Mapping[str, float], histogram: Histogram | None) -> None:
        values = [
            self._summary.Summary.Value(tag=f"{self._prefix}/{name}", simple_value=value)
            for name, value in scalars.items()
        ]
        if histogram is not None:
            proto = self._histogram_proto(histogram)
            values.append(self._summary.Summary.Value(tag=f"{self._prefix}/eigenvalues", histo=proto))
        self._write(step, self._summary.Summary(value=values))

    def _histogram_proto(self, histogram: Histogram) -> Any:
        counts, centres = histogram.counts, histogram.centres
        return self._summary.HistogramProto(
            min=histogram.edges[0],
            max=histogram.edges[-1],
            num=counts.sum(),
            sum=counts @ centres,
            sum_squares=counts @ np.square(centres),
            bucket_limit=histogram.edges.tolist(),
            bucket=[0.0, *counts.tolist()],  # the first bucket, below the first edge, is empty
        )

    def _write(self, step: int, summary: Any) -> None:
        self._writer.add_event(self._event(wall_time=time(), step=step, summary=summary))
