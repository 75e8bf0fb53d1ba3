"""The common interface of loggers, and what they write of a result."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from hessian_spectrum.api_schemas.experiments.series import SeriesEntry, SeriesResult
from hessian_spectrum.api_schemas.headlines import headlines
from hessian_spectrum.api_schemas.spectrum_results import Interval, MethodResult, Provenance
from hessian_spectrum.client.loggers.histogram import Histogram, histogram_of

PREFIX = "spectrum"
"""First part of the names of everything that is logged, unless the caller chooses another."""

_NUMBERS = ("loss", "largest", "smallest", "trace", "frobenius", "learning_rate", "stability_threshold")
_PROVENANCE = ("matrix", "precision", "preconditioner", "shift", "block", "device", "data_sha256", "seed")


class ResultLogger(ABC):
    """Writes results into a run of another tool.

    Scalars are `loss`, `largest`, `smallest`, `trace` and `frobenius`, those that the method gives, each with the ends
    of its 95 % interval as `<name>_lower` and `<name>_upper`. A density, or all eigenvalues, become a histogram. What
    the numbers were computed with is written once, and again when it changes.

    Args:
        prefix: First part of all names, to tell several matrices apart.
    """

    def __init__(self, prefix: str = PREFIX) -> None:
        self._prefix = prefix
        self._settings: dict[str, str] = {}

    def log(self, result: MethodResult, step: int) -> None:
        """Write a result.

        Args:
            result: Result of a spectrum job.
            step: Step of training that it belongs to.
        """
        self._log_settings(_settings(result.provenance) | {"method": result.method})
        self._write_point(step, scalars_of(result), histogram_of(result, result.num_parameters))

    def log_series(self, series: SeriesResult) -> None:
        """Write the numbers at all steps of a series; steps without numbers are left out.

        Args:
            series: The series, as `Tracker.series` returns it.
        """
        origin = _settings(series.provenance[0]) if series.provenance else {}
        self._log_settings(origin | {"series": series.name, "method": ", ".join(sorted(series.methods))})
        for entry in series.points:
            if entry.problem is None:
                self._write_point(entry.step, scalars_of(entry), histogram_of(entry, series.num_parameters))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _log_settings(self, settings: dict[str, str]) -> None:
        if settings != self._settings:
            self._write_settings(settings)
            self._settings = settings

    @abstractmethod
    def close(self) -> None:
        """Write what is pending; a run that the caller has opened stays open."""

    @abstractmethod
    def _write_settings(self, settings: Mapping[str, str]) -> None:
        """Write what the numbers are computed with."""

    @abstractmethod
    def _write_point(self, step: int, scalars: Mapping[str, float], histogram: Histogram | None) -> None:
        """Write the numbers of one step."""


def import_tool(module: str, extra: str) -> Any:
    """Import a module of another tool.

    Args:
        module: Name of the module.
        extra: Extra of the client that installs it.

    Returns:
        The module.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{error}: in the repository, run pip install ./api_schemas './client[{extra}]'") from error


def scalars_of(result: MethodResult | SeriesEntry) -> dict[str, float]:
    """Return the single numbers of a result and the ends of their intervals, those that are known."""
    scalars: dict[str, float | None] = {}
    for name, number in _numbers(result).items():
        if isinstance(number, Interval):
            scalars |= {name: getattr(number, "value", None)}
            scalars |= {f"{name}_lower": number.lower, f"{name}_upper": number.upper}
        else:
            scalars[name] = number
    return {name: value for name, value in scalars.items() if value is not None}


def _numbers(result: MethodResult | SeriesEntry) -> Mapping[str, Interval | float | None]:
    known = {name: getattr(result, name, None) for name in _NUMBERS}
    return known if isinstance(result, SeriesEntry) else known | dict(headlines(result))


def _settings(provenance: Any) -> dict[str, str]:
    """Return the part of the provenance that all points of a run have in common, by name."""
    if not isinstance(provenance, Provenance):
        return {}
    fields = {name: getattr(provenance, name) for name in _PROVENANCE}
    versions = {f"versions.{name}": version for name, version in provenance.versions.items()}
    return {name: str(value) for name, value in fields.items() if value is not None} | versions
