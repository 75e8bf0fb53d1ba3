"""Where commands print, and how: files, pipes, terminals of 80 columns, JSON for programs."""

import inspect
import itertools
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.client.commands.jobs import FOLDED
from hessian_spectrum.client.commands.printing import Id, Printer, local_time
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.main import app
from hessian_spectrum.client.testing import FakeServer
from tests.client.conftest import Command, called

SPECTRUM = Path(sys.executable).with_name("spectrum")
JOB = json.dumps({"kind": "spectrum", "tags": {"paper": "one"}})


def every_command() -> Iterator[tuple[str, Any]]:
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        for inner, each in getattr(command, "commands", {"": command}).items():
            yield f"{name} {inner}".strip(), each


@pytest.mark.parametrize(("name", "command"), list(every_command()))
def test_every_command_has_json_and_output(name: str, command: Any) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--output", "-o"} <= options


@pytest.mark.parametrize(("name", "command"), list(every_command()))
def test_paragraphs_of_help_are_broken_by_the_terminal_alone(name: str, command: Any) -> None:
    assert all("\n" not in paragraph for paragraph in command.help.split("\n\n"))
    assert command.help.split() == inspect.cleandoc(command.callback.__doc__).split()


def test_json_and_files_are_the_same_everywhere(fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "answer.txt"
    job_id = json.loads(called("submit", "-", "--json", text=JOB).stdout)["id"]
    for command in (["job", job_id], ["watch", job_id], ["result", job_id], ["list", "--json"], ["cancel", job_id]):
        printed = called(*command)
        assert json.loads(printed.stdout)
        assert called(*command, "--json", "-o", "-").stdout == printed.stdout
        written = called(*command, "--json", "--output", str(path))
        assert (written.exit_code, written.stdout) == (0, "")
        assert json.loads(path.read_text()) == json.loads(printed.stdout)
    assert called("list", "-o", str(path)).stdout == ""
    assert path.read_text() == called("list").stdout
    called("list", "-o", str(tmp_path / "jobs.json"))
    assert json.loads((tmp_path / "jobs.json").read_text())[0]["id"] == job_id
    assert json.loads(called("delete", job_id, "--json").stdout) == {"id": job_id, "deleted": True}
    assert called("list", "-o", str(tmp_path / "none" / "jobs.txt")).exit_code == 2


def test_what_prints_nothing_prints_a_record_for_programs(fake: FakeServer) -> None:
    assert called("login", "lab", "http://127.0.0.1:8000", text="").stdout == ""
    again = called("login", "lab", "http://127.0.0.1:8000", "--json", text="")
    assert json.loads(again.stdout) == {"name": "lab", "url": "http://127.0.0.1:8000", "default": True}
    assert json.loads(called("servers", "--json").stdout)["servers"] == {"lab": {"url": "http://127.0.0.1:8000"}}
    assert json.loads(called("logout", "lab", "--json").stdout) == {"name": "lab", "removed": True}


def on_terminal(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a terminal of 80 columns shows."""
    controller, terminal = pty.openpty()
    size = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    with subprocess.Popen(command, stdout=terminal, env=os.environ | size | (environment or {})) as process:
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(controller, 2**16):
                shown += piece
        except OSError:  # the last reader of a terminal gets an error in place of an end
            pass
    os.close(controller)
    assert process.returncode == 0
    return shown.decode()


def test_ids_on_a_terminal_can_be_used(spectrum: Command, server: Any, client: SpectrumClient) -> None:
    request = {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [1, 2, 1]},
        "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
        "loss": "mse",
        "method": {"kind": "exact"},
        "tags": {"test": "terminal", "a-long-name-of-a-tag": "and-a-long-value-of-it"},
    }
    ids = [client.submit(request).id for _ in range(2)]
    for job_id in ids:
        client.wait(job_id)
    shown = on_terminal([str(SPECTRUM), "list", "--tag", "test:terminal", "--server", server.url])
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for job_id in ids:
        assert any(line.startswith(job_id[:16] + " ") for line in shown.splitlines())
        assert json.loads(spectrum("job", job_id[:16]).stdout)["id"] == job_id
        assert job_id in spectrum("list", "--tag", "test:terminal").stdout
    shown = on_terminal([str(SPECTRUM), "compare", *ids, "--server", server.url])
    assert shown.splitlines()[0].split() == ["quantity", *(each[:16] for each in ids)]
    assert "…" not in shown


def test_uploaded_files_are_deleted_by_a_beginning(
    spectrum: Command, server: Any, client: SpectrumClient, tmp_path: Path
) -> None:
    artifact = client.upload_data([[1.25], [7.75]])["id"]
    shown = on_terminal([str(SPECTRUM), "artifacts", "--server", server.url])
    assert any(line.startswith(artifact[:16] + " ") for line in shown.splitlines())
    assert "…" not in shown
    for beginning in ("", artifact[:7], "x" * 8):
        assert spectrum("delete-artifact", beginning).exit_code == 2
    assert spectrum("delete-artifact", "0" * 20).exit_code == 1
    deleted = spectrum("delete-artifact", artifact[:16], "-o", str(tmp_path / "deleted.json"))
    assert deleted.exit_code == 0, deleted.output
    assert json.loads((tmp_path / "deleted.json").read_text()) == {"id": artifact, "deleted": True}
    assert artifact not in spectrum("artifacts").stdout


def test_ids_that_begin_alike_are_shown_whole(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("hessian_spectrum.client.commands.printing.is_terminal", lambda path: path is None)
    ids = ["a" * 32, "a" * 31 + "b"]
    Printer(None, as_json=False).table([{"id": Id(each), "state": "queued"} for each in ids], [], empty="")
    shown = capsys.readouterr().out
    assert all(each in shown for each in ids)
    Printer(None, as_json=False).table([{"id": Id(each * 32), "x": ""} for each in "ab"], [], empty="")
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines()] == [["id"], ["a" * 16], ["b" * 16]]


def test_times_are_those_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert local_time(datetime(2026, 1, 1, 20, tzinfo=UTC)) == "2026-01-02 05:00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_nothing_is_left_out_where_a_terminal_is_too_narrow(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("hessian_spectrum.client.commands.printing.is_terminal", lambda path: path is None)
    tags, running = "paper:a-rather-long-tag other:tag", "linearisation 12400/48400"
    row = {"id": Id("a" * 32), "state": "succeeded", "kind": "hessian-vs-ggn", "summary": "exact, hessian of mlp"}
    row |= {"progress": running, "submitted": "2026-11-30 15:31:04", "tags": tags}
    for columns in (80, 100, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        Printer(None, as_json=False).table([row], [], empty="", folded=FOLDED)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        starts = [lines[0].index(title) for title in row] + [columns]
        cells = ["".join(line[a:b].strip() for line in lines[1:]) for a, b in itertools.pairwise(starts)]
        assert cells[0] == "a" * 16
        assert [each.replace(" ", "") for each in cells[1:]] == [
            each.replace(" ", "") for each in list(row.values())[1:]
        ]
    assert len(lines) == 2


@pytest.mark.parametrize("options", [[], ["-o", "-"], ["--format", "npz"], ["--json"]])
def test_a_failure_is_not_written_where_a_result_goes(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(fake, "_answer", Problem(title="Out of memory", status=507, detail="Take fewer probes."))
    failed = called("run", "-", *options, text=JOB)
    assert failed.exit_code == 1
    assert failed.stdout == ""
    (job,) = json.loads(called("list", "--json").stdout)
    assert f"job {job['id']} failed: Out of memory. Take fewer probes." in failed.stderr


def shell(script: str, url: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PATH": f"{SPECTRUM.parent}:{os.environ['PATH']}", "SPECTRUM_URL": url}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("list --json > /dev/full", 2, b"standard output cannot be written: No space left"),
        ("job ID > /dev/full", 2, b"standard output cannot be written: No space left"),
        ("result ID --format npz > /dev/full", 2, b"standard output cannot be written: No space left"),
        ("list >&-", 2, b"standard output is closed"),
        ("run - <&-", 2, b"standard input is closed"),
        ("list --json | head -c 0; exit ${PIPESTATUS[0]}", 141, b""),
        ("result ID --format npz | head -c 0; exit ${PIPESTATUS[0]}", 141, b""),
    ],
)
def test_outputs_that_cannot_be_written_end_a_command_quietly(
    server: Any, client: SpectrumClient, command: str, code: int, said: bytes
) -> None:
    job = client.submit(
        {"kind": "spectrum", "model": {"kind": "mlp", "widths": [1, 2, 1]}, "loss": "mse", "method": {"kind": "exact"}}
        | {"data": {"kind": "inline", "x": [1.0], "y": [0.5]}}
    )
    job.result()
    done = shell(f"spectrum {command.replace('ID', job.id)}", server.url)
    output = b" ".join(done.stderr.replace("│".encode(), b" ").split())
    assert done.returncode == code, output
    assert said in output
    assert b"Traceback" not in output
    assert b"Exception ignored" not in output
    assert said or not output


def test_an_interrupt_while_modules_are_loaded_is_quiet() -> None:
    program = (
        "import sys, hessian_spectrum.spectrum_command as start\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "start.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, b"")
    assert "hessian_spectrum.spectrum_command" in SPECTRUM.read_text()


def test_letters_that_a_terminal_does_not_have_are_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    program = (
        "from pathlib import Path; from hessian_spectrum.client.commands.writing import write_text; "
        "write_text(None, 'λ = 1')"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True, timeout=60)
    assert done.stdout == b"\\u03bb = 1\n"
