"""`python -m benchmarks.page`: how fast the page is in Chromium, on the machine of the server and its worker.

A time ends when the browser has drawn the frame that shows the change; frames are a sixtieth of a second apart.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.environment import server_environment, server_line
from benchmarks.reports import RESULTS
from benchmarks.stack import RunningStack
from hessian_spectrum.client.http import SpectrumClient

ROUNDS = 15
NUM_JOBS, PAGE_SIZE = 500, 200
NUM_POINTS = 100_000
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10]},
    "data": {"kind": "digits", "num_samples": 64},
    "loss": "cross-entropy",
}
CROWD = [
    JOB | {"method": {"kind": "trace", "num_probes": 8}, "tags": {"crowd": "yes"}},
    {"kind": "figure", "figure": "cracking-1", "scale": "quick", "tags": {"crowd": "yes"}},
]
"""Jobs of the list in turn, so that an order by kind is another one than that by age."""

DENSITY = JOB | {"method": {"kind": "lanczos", "num_steps": 20, "num_probes": 3, "num_points": NUM_POINTS}}

SLIDERS = {
    "closed form, two layers": ("#/closed-form", "cosine", -0.9, 0.9),
    "closed form, attention": ("#/closed-form?kind=self-attention", "alignment", -0.9, 0.9),
    "random matrix": ("#/random-matrix", "energy", 0.1, 0.9),
}
"""Views with the slider that moves, and the range in which it moves."""

FRAME = """
const frame = () => new Promise((resolve) => requestAnimationFrame(() => {
  const channel = new MessageChannel(); // its message comes once the frame is drawn
  channel.port1.onmessage = resolve;
  channel.port2.postMessage(null);
}));
const milliseconds = async (action) => {
  await frame();
  const started = performance.now();
  await action();
  await frame();
  return performance.now() - started;
};
const chart = document.querySelector("figure.chart")?.chart;
"""
SLIDE = """([name, value]) => milliseconds(() => new Promise((resolve) => {
  const { update } = Object.getPrototypeOf(chart);
  chart.update = function () { update.call(this); resolve(); };
  const slider = document.getElementById(name);
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
}))"""
ZOOM = """([lower, upper]) => milliseconds(() => {
  const x = chart.plot.data[0], width = x.at(-1) - x[0];
  chart.plot.setScale("x", { min: x[0] + lower * width, max: x[0] + upper * width });
})"""
HOVER = """(share) => milliseconds(() => {
  const over = document.querySelector(".u-over"), box = over.getBoundingClientRect();
  const at = { bubbles: true, clientX: box.left + share * box.width, clientY: box.top + 50 };
  over.dispatchEvent(new MouseEvent("mouseenter", at));
  over.dispatchEvent(new MouseEvent("mousemove", at));
})"""
SORT = """(column) => milliseconds(() => document.querySelector(`th[data-sort=${column}] button`).click())"""
PAINT = """performance.getEntriesByName("first-contentful-paint")[0]?.startTime"""


@dataclass(frozen=True)
class Figure:
    """Something that was measured, in milliseconds, and the goal of its median."""

    name: str
    values: list[float]
    goal: float | None

    def row(self) -> str:
        """A row of the table."""
        goal = "" if self.goal is None else f"< {self.goal:g}"
        reached = "" if self.goal is None else "yes" if median(self.values) < self.goal else "no"
        return f"| {self.name} | {median(self.values):.0f} | {max(self.values):.0f} | {goal} | {reached} |"


def measured(page: Page, action: str, argument: Any) -> float:
    """Milliseconds of an action until it is drawn."""
    return float(page.evaluate(f"async (argument) => {{ {FRAME} return ({action})(argument); }}", argument))


def paints(browser: Browser, url: str, rounds: int) -> Iterator[Figure]:
    """First contentful paint without and with the files of an earlier visit."""
    times: dict[str, list[float]] = {"first paint, first visit": [], "first paint, later visit": []}
    for _ in range(rounds):
        context = browser.new_context()
        for values in times.values():
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("table")
            values.append(first_paint(page))
            page.close()
        context.close()
    yield from (Figure(name, values, 1000) for name, values in times.items())


def first_paint(page: Page) -> float:
    """When a page was painted for the first time, in milliseconds since it was asked for."""
    while (time := page.evaluate(PAINT)) is None:
        page.wait_for_timeout(20)
    return float(time)


@contextmanager
def opened(browser: Browser, url: str, selector: str) -> Iterator[Page]:
    """A page whose parts are there, and which rests."""
    page = browser.new_page()
    page.goto(url)
    page.wait_for_selector(selector)
    page.wait_for_timeout(500)
    yield page
    page.close()


def sliders(browser: Browser, url: str, rounds: int) -> Iterator[Figure]:
    """Steps of sliders until the spectrum has moved."""
    for name, (view, slider, low, high) in SLIDERS.items():
        with opened(browser, f"{url}/{view}", ".u-legend") as page:
            steps = [low + (high - low) * index / rounds for index in range(rounds)]
            yield Figure(
                f"a step of a slider, {name}", [measured(page, SLIDE, [slider, f"{x:.3f}"]) for x in steps], 50
            )


def density(browser: Browser, url: str, job_id: str, rounds: int) -> Iterator[Figure]:
    """Frames of a density with many points."""
    with opened(browser, f"{url}/#/jobs/{job_id}", ".u-legend") as page:
        shares = [(index + 1) / (2 * rounds + 2) for index in range(rounds)]
        zooms = [measured(page, ZOOM, [share * 0.8, 1 - share]) for share in shares]
        yield Figure(f"zoom, {NUM_POINTS:,} points", zooms, 50)
        measured(page, ZOOM, [0, 1])
        yield Figure(f"hover, {NUM_POINTS:,} points", [measured(page, HOVER, share) for share in shares], 50)


def lists(browser: Browser, url: str, rounds: int) -> Iterator[Figure]:
    """A list of many jobs: the browser's work until it is there, and changes of its order."""
    work, sorts = [], []
    for _ in range(max(3, rounds // 3)):
        page = browser.new_page()
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        page.goto(f"{url}/#/jobs?tag=crowd:yes")
        for number in range(PAGE_SIZE, NUM_JOBS, PAGE_SIZE):
            page.locator("tbody tr").nth(number - 1).wait_for()
            page.get_by_role("button", name="Older jobs").click()
        page.locator("tbody tr").nth(NUM_JOBS - 1).wait_for()
        metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
        work.append(1e3 * sum(metrics[name] for name in ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration")))
        sorts += [measured(page, SORT, column) for column in ("kind", "created")]
        page.close()
    yield Figure(f"listing {NUM_JOBS} jobs: scripts, styles and layout", work, None)
    yield Figure(f"sorting {NUM_JOBS} jobs", sorts, None)


def figures(url: str, rounds: int) -> list[Figure]:
    """Everything that is measured."""
    with SpectrumClient(url) as client:
        for index in range(NUM_JOBS):
            job = client.submit(CROWD[index % len(CROWD)])
        client.wait(job.id)
        job_id = client.wait(client.submit(DENSITY).id).id
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        found = [
            *paints(browser, url, rounds),
            *sliders(browser, url, rounds),
            *density(browser, url, job_id, rounds),
            *lists(browser, url, rounds),
        ]
        browser.close()
    return found


def table(environment: dict[str, Any], found: list[Figure], loads: list[float], rounds: int) -> str:
    """As Markdown."""
    lines = [
        "# How fast the page is",
        "",
        f"{server_line(environment)} Chromium, the server and one worker share the cores. Load averages over a minute "
        f"before and after: {loads[0]:.1f} and {loads[1]:.1f}. {rounds} rounds; milliseconds until the frame is drawn.",
        "",
        "| what | median | longest | goal | reached |",
        "|---|---|---|---|---|",
        *(each.row() for each in found),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="number of repetitions; medians are reported")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/page.json and .md")
    arguments = parser.parse_args()
    loads = [os.getloadavg()[0]]
    with (
        tempfile.TemporaryDirectory(prefix="spectrum-page-") as directory,
        RunningStack(Path(directory) / "data", 1) as stack,
    ):
        found = figures(stack.url, arguments.rounds)
    loads.append(os.getloadavg()[0])
    text = table(environment := server_environment(), found, loads, arguments.rounds)
    if arguments.save:
        report = environment | {"loads": loads, "milliseconds": {each.name: each.values for each in found}}
        (RESULTS / "page.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "page.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
