"""A gallery of the sources' figures: a picture, the numbers and the verdicts of each."""

import contextlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from hessian_spectrum.api_schemas.experiments.figure import FigureResult
from hessian_spectrum.api_schemas.figures.kind import Scale
from hessian_spectrum.api_schemas.figures.results import Variant, Verdict
from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.progress import job_progress
from hessian_spectrum.launcher.demo import free_port, wait_until_ended
from hessian_spectrum.launcher.stack import Stack, StackError

_HOST = "127.0.0.1"
_WORDS = {True: "holds", False: "does not hold", None: "not decided"}


@dataclass(frozen=True)
class GalleryOptions:
    """What a gallery shows.

    Attributes:
        figures: Names of figures; empty for all.
        scale: Sizes of all of them.
        overrides: Values of single parameters of all of them.
        output: Directory of the gallery.
        data_directory: Directory of jobs and results; None: a temporary one.
        num_workers: Number of workers.
    """

    figures: Sequence[str]
    scale: Scale
    overrides: Mapping[str, Any]
    output: Path
    data_directory: Path | None
    num_workers: int


def make_gallery(options: GalleryOptions, stop: threading.Event) -> None:
    """Start a stack, compute the figures one after the other, write the gallery, and stop the stack.

    Args:
        options: What the gallery shows.
        stop: Ends the computation when set; what was computed is kept.

    Raises:
        StackError: If the stack does not start, or if figures could not be computed.
        SpectrumClientError: If the server does not answer.
    """
    console = Console()
    options.output.mkdir(parents=True, exist_ok=True)
    with _directory(options.data_directory) as directory:
        log = options.output / "stack.log"
        with Stack(
            host=_HOST, port=free_port(), data_directory=directory, num_workers=options.num_workers, log=log
        ) as stack:
            if missing := stack.start(stop, console.print):
                raise StackError("; ".join(missing))
            threading.Thread(target=stack.supervise, args=(stop, console.print), daemon=True).start()
            with SpectrumClient(stack.url) as client:
                _write_figures(client, options, stop, console)
            stop.set()


@contextlib.contextmanager
def _directory(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="spectrum-figures-") as directory:
        yield Path(directory)


def _write_figures(client: SpectrumClient, options: GalleryOptions, stop: threading.Event, console: Console) -> None:
    names = list(options.figures) or [each.figure for each in client.figures().figures]
    pages, failed = [], []
    for name in names:
        if stop.is_set():
            return
        try:
            pages.append(_write_figure(client, name, options, stop, console))
        except ProblemResponseError as error:
            failed.append(name)
            pages.append(f"## {name}\n\nIt could not be computed: {error}\n")
        (options.output / "gallery.md").write_text(_gallery(pages, options.scale))
    console.print(f"Gallery: {options.output / 'gallery.md'}")
    if failed:
        raise StackError(f"these figures could not be computed: {', '.join(failed)}")


def _write_figure(
    client: SpectrumClient, name: str, options: GalleryOptions, stop: threading.Event, console: Console
) -> str:
    """Compute a figure, write its files, and return its part of the gallery."""
    request = {"kind": "figure", "figure": name, "scale": options.scale, "overrides": dict(options.overrides)}
    started = time.monotonic()
    job = client.submit(request)
    with job_progress(console, name) as progress:
        wait_until_ended(client, job.id, stop, on_change=progress.show)
    result = client.result(job.id)
    if not isinstance(result, FigureResult):
        raise TypeError("the server returned a result of another kind")
    for suffix in ("png", "csv"):
        (options.output / f"{name}.{suffix}").write_bytes(client.result_file(job.id, suffix))
    verdicts = result.model_dump_json(include={"figure", "scale", "parameters", "verdicts", "choices"}, indent=1)
    (options.output / f"{name}.json").write_text(verdicts + "\n")
    return figure_page(result, time.monotonic() - started, options.overrides)


def figure_page(result: FigureResult, seconds: float, overrides: Mapping[str, Any]) -> str:
    """Return the part of a gallery that shows a figure, as Markdown.

    Args:
        result: The figure.
        seconds: Time in seconds until its job was over.
        overrides: Parameters that differ from those of the scale.

    Returns:
        The text.
    """
    changed = f" Overrides: `{json.dumps(overrides)}`." if overrides else ""
    lines = [
        f"## {result.figure}: {result.title}",
        "",
        f"{result.source}. {len(result.points):,} rows of numbers: [{result.figure}.csv]({result.figure}.csv). "
        f"Verdicts and parameters: [{result.figure}.json]({result.figure}.json). "
        f"Computed in {seconds:,.0f} s. The measurements, some of which may have been kept from earlier jobs, took "
        f"{result.wall_time_seconds:,.0f} s of worker time.{changed}",
        "",
        f"![{result.title}]({result.figure}.png)",
        "",
        "| claim | verdict | found | threshold |",
        "|---|---|---|---|",
        *map(_row, result.verdicts),
        "",
        *_variants(result.verdicts),
        *(f"- `{choice.name}`: {choice.value}. {choice.reason}" for choice in result.choices),
        "",
    ]
    return "\n".join(lines)


def _row(verdict: Verdict) -> str:
    found = _found(verdict)
    notes = [verdict.quantity, *([verdict.note] if verdict.note else [])]
    claim, reasons = (text.replace("<", "&lt;") for text in (verdict.claim, "; ".join(notes)))  # <w, v> is no tag
    cells = (f"{claim}<br>({reasons})", _WORDS[verdict.holds], found, thresholds(verdict))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _found(verdict: Verdict | Variant) -> str:
    found = _number(verdict.value)
    if verdict.lower is not None and verdict.upper is not None:
        found += f" [{_number(verdict.lower)}, {_number(verdict.upper)}]"
    return found


def _variants(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a list of the claims that have variants, with a list of these below each."""
    lines: list[str] = []
    for verdict in verdicts:
        if verdict.variants:
            lines.append(f"- {verdict.claim}")
            lines += [
                f"    - {each.choice}: {_WORDS[each.holds]} ({each.note or _found(each)})" for each in verdict.variants
            ]
    return ["Under other choices or for other seeds:", "", *lines, ""] if lines else []


def thresholds(verdict: Verdict) -> str:
    """Return the value that decides a verdict, or both values, as in the gallery; empty for none."""
    ends = [_number(end) for end in (verdict.threshold, verdict.threshold_upper) if end is not None]
    return " to ".join(ends)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _gallery(pages: Sequence[str], scale: Scale) -> str:
    machine = f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}"
    head = [
        f"# The sources' figures at the scale `{scale}`",
        "",
        f"Computed by spectrum-server {__version__} on {machine}, {date.today():%d %B %Y}.",
        "Intervals are 95 % intervals. A verdict is `not decided` where the interval contains the threshold.",
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(pages)
