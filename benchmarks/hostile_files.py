"""`python -m benchmarks.hostile_files`: how soon each hostile file of the tests is refused, over HTTP."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.environment import server_environment, server_line
from benchmarks.stack import RunningStack
from tests.security.attack import Attack
from tests.security.programs import harmless_programs
from tests.security.uploads import ARTIFACTS, PT2, hostile_uploads

RESULTS = Path(__file__).parent / "results"
MAX_SECONDS = 2.0
"""Longest time until an answer."""

FORMATS = {
    "program-npz": "npz attacks as a .pt2",
    "program": ".pt2",
    "onnx": "ONNX",
    "npz": "npz, as a request",
    "arrays": "npz, as arrays",
    "npy": "npy, as an array",
    "tokens": "npy, or raw tokens",
    "safetensors": "safetensors",
}
"""What a file is sent as, by the beginning of its name in the corpus."""

_TIMEOUT = 60.0


@dataclass(frozen=True)
class Answer:
    """The answer to one file.

    Attributes:
        format: What the file is sent as.
        name: The name of the file in the corpus.
        num_bytes: Its length.
        status: Status code of the response.
        seconds: Time from the first byte sent to the last one received.
        detail: Beginning of what the response says.
    """

    format: str
    name: str
    num_bytes: int
    status: int
    seconds: float
    detail: str


def hostile_files() -> Iterator[tuple[str, str, Attack]]:
    """Yield the format, the name and the request of each hostile file."""
    for attack in hostile_uploads():
        prefix = next((each for each in FORMATS if attack.name.startswith(f"{each}-")), None)
        if prefix is not None:
            yield FORMATS[prefix], attack.name.removeprefix(f"{prefix}-"), attack


def harmless_files() -> Iterator[tuple[str, str, Attack]]:
    """Yield the same of the programs that are accepted, as what is hostile in them is never read."""
    for name, make in harmless_programs():
        yield ".pt2, harmless", name, Attack(name, ARTIFACTS, make, PT2, statuses=(201,))


def answer(http: httpx.Client, attack: Attack) -> tuple[httpx.Response, int, float]:
    """Send a file, and return the response, the length of the file, and the seconds until the response was read."""
    body = attack.body()
    headers = dict(attack.headers) | ({} if attack.media_type is None else {"Content-Type": attack.media_type})
    started = time.perf_counter()
    response = http.request(attack.method, attack.path, content=body or None, headers=headers)
    return response, len(body), time.perf_counter() - started


def measured(http: httpx.Client, files: Callable[[], Iterator[tuple[str, str, Attack]]]) -> list[Answer]:
    """Return the answer to each file; each is sent alone.

    Raises:
        RuntimeError: If the answer has another status than the tests allow.
    """
    answers = []
    for file_format, name, attack in files():
        response, num_bytes, seconds = answer(http, attack)
        if response.status_code not in attack.statuses:
            raise RuntimeError(f"{attack.name}: {response.status_code} {response.text[:300]}")
        answers.append(Answer(file_format, name, num_bytes, response.status_code, seconds, _detail(response.json())))
        if response.status_code == 201:
            http.delete(f"{ARTIFACTS}/{response.json()['id']}").raise_for_status()
    return answers


def _detail(document: dict[str, Any]) -> str:
    """Return what a problem says, or how large an accepted program is."""
    if "num_calls" in document:
        return f"accepted: {document['num_calls']} calls"
    errors = document.get("errors") or [{}]
    text = str(errors[0].get("msg") or document.get("detail") or document.get("title"))
    return text if len(text) <= 120 else text[:117] + "..."


def report() -> dict[str, Any]:
    """Send every file to a server of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="spectrum-hostile-") as directory,
        RunningStack(Path(directory) / "data", num_workers=1) as stack,
        httpx.Client(base_url=stack.url, timeout=_TIMEOUT) as http,
    ):
        refused, accepted = measured(http, hostile_files), measured(http, harmless_files)
    slowest = max(each.seconds for each in refused + accepted)
    return {
        "host": server_environment(),
        "goal": f"at most {MAX_SECONDS:g} s",
        "reached": slowest <= MAX_SECONDS,
        "slowest_seconds": slowest,
        "files": [asdict(each) for each in refused + accepted],
    }


def table(found: dict[str, Any]) -> str:
    """Return the report as Markdown: one line for each format, then one for each file."""
    files = [Answer(**each) for each in found["files"]]
    formats = list(dict.fromkeys(each.format for each in files))
    reached = "reached" if found["reached"] else "missed"
    lines = [
        "# Response times to hostile files",
        "",
        server_line(found["host"]),
        "",
        "Each file of `tests/security` is sent alone over HTTP; the time ends when the response has been read. "
        f"Goal: {found['goal']} for each file: {reached}; the slowest took {found['slowest_seconds']:.2f} s.",
        "",
        "| format | files | refused | median | slowest | slowest file |",
        "|---|---|---|---|---|---|",
    ]
    for each in formats:
        own = sorted((file for file in files if file.format == each), key=lambda file: file.seconds)
        num_refused = sum(file.status >= 400 for file in own)
        median, last = own[len(own) // 2], own[-1]
        lines.append(
            f"| {each} | {len(own)} | {num_refused} | {1e3 * median.seconds:.0f} ms | {1e3 * last.seconds:.0f} ms "
            f"| {_cell(last.name)} |"
        )
    lines += ["", "| format | file | bytes | status | time | response |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {file.format} | {_cell(file.name)} | {file.num_bytes:,} | {file.status} | {1e3 * file.seconds:.0f} ms "
        f"| {_cell(file.detail)} |"
        for file in files
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a text that Markdown shows as it is: hostile names hold anything."""
    shown = "".join(letter if letter.isprintable() and letter not in "`|" else "?" for letter in text)
    return f"`{shown}`"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_files", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/hostile_files.md")
    arguments = parser.parse_args()
    found = report()
    text = table(found)
    if arguments.save:
        (RESULTS / "hostile_files.md").write_text(text)
    print(json.dumps(found, indent=1) + "\n" if arguments.json else text, end="")


if __name__ == "__main__":
    main()
