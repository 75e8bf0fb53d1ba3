"""The `spectrum` command against the real stack."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.main import app

JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1]},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "lanczos", "num_steps": 4, "num_probes": 2},
    "tags": {"test": "command"},
}
QUADRATIC = json.dumps({"model": {"kind": "quadratic", "matrix": [[3.0]]}})


def test_a_closed_form_from_standard_input(spectrum: Any) -> None:
    called = spectrum("closed-form", "-", text=QUADRATIC)
    assert called.exit_code == 0
    assert json.loads(called.stdout)["sharpness"] == 3.0


def test_a_closed_form_from_arrays_to_every_format(spectrum: Any, tmp_path: Path) -> None:
    request = tmp_path / "request.npz"
    np.savez(request, kind="linear", w=np.ones(3), v=np.ones(3), x=np.ones(2), y=np.zeros(2), eigenvectors="all")
    assert json.loads(spectrum("closed-form", str(request)).stdout)["num_parameters"] == 6
    for name, start in (("npz", b"PK"), ("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("json", b"{")):
        output = tmp_path / f"answer.{name}"
        called = spectrum("closed-form", str(request), "-o", str(output))
        assert called.exit_code == 0, called.output
        assert output.read_bytes().startswith(start)


def test_a_random_matrix_law_printed_and_drawn(spectrum: Any, tmp_path: Path) -> None:
    request, picture = tmp_path / "law.json", tmp_path / "law.svg"
    request.write_text(json.dumps({"law": "wishart", "ratio": 2.0, "points": [1.0]}))
    called = spectrum("random-matrix", str(request))
    assert called.exit_code == 0
    assert json.loads(called.stdout)["atom_at_zero"] == 0.5
    assert spectrum("random-matrix", str(request), "-o", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"<?xml")
    assert spectrum("random-matrix", str(request), "-o", str(tmp_path / "law.txt")).exit_code == 2


def test_a_job_from_a_file_to_a_picture(spectrum: Any, tmp_path: Path) -> None:
    request, picture = tmp_path / "job.json", tmp_path / "density.png"
    request.write_text(json.dumps(JOB))
    called = spectrum("run", str(request), "-o", str(picture))
    assert called.exit_code == 0, called.output
    assert picture.read_bytes().startswith(b"\x89PNG")

    listed = spectrum("list", "--tag", "test:command", "--state", "succeeded")
    job_id = listed.stdout.splitlines()[1].split()[0]
    assert json.loads(spectrum("job", job_id).stdout)["state"] == "succeeded"
    assert json.loads(spectrum("result", job_id).stdout)["num_parameters"] == 7
    assert json.loads(spectrum("cancel", job_id).stdout)["state"] == "succeeded"
    assert spectrum("delete", job_id).exit_code == 0
    assert spectrum("job", job_id).exit_code == 1


def test_eigenvectors_are_saved_from_a_job_that_ended(spectrum: Any, tmp_path: Path) -> None:
    request = json.dumps(JOB | {"method": {"kind": "top-k", "k": 2}, "block": "layers.0.*", "precision": "float64"})
    job_id = json.loads(spectrum("submit", "-", text=request).stdout)["id"]
    result = spectrum("run", "-", "--fresh", text=request)
    assert len(json.loads(result.stdout)["eigenpairs"]) == 2, result.output
    output = tmp_path / "vectors"
    saved = spectrum("result", job_id, "--format", "npz", "-o", str(output))
    assert saved.exit_code == 0, saved.output
    with np.load(output, allow_pickle=False) as arrays:
        assert arrays["eigenvectors"].shape == (2, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]
    for arguments, said in (
        (["-o", str(tmp_path / "none" / "a.npz")], "No such file"),
        (["-o", str(output)], "ends in none of"),
        (["--format", "gif", "-o", str(output)], "'gif' is not one of"),
    ):
        refused = spectrum("result", job_id, *arguments)
        assert refused.exit_code == 2
        assert said in " ".join(refused.output.replace("│", " ").split())


def test_answers_go_to_standard_output_and_through_links(spectrum: Any, tmp_path: Path) -> None:
    job_id = json.loads(spectrum("submit", "-", text=json.dumps(JOB)).stdout)["id"]
    spectrum("watch", job_id)
    link = tmp_path / "link.png"
    link.symlink_to("target.png")
    assert spectrum("result", job_id, "-o", str(link)).exit_code == 0
    picture = (tmp_path / "target.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert link.is_symlink()
    for arguments in (["--format", "png"], ["-o", "-", "--format", "png"]):
        assert spectrum("result", job_id, *arguments).stdout_bytes == picture
    assert json.loads(spectrum("result", job_id, "-o", "-").stdout)["num_parameters"] == 7
    assert spectrum("closed-form", "-", "-o", "-", "--format", "npz", text=QUADRATIC).stdout_bytes.startswith(b"PK")
    law = json.dumps({"law": "wigner", "points": [0.0]})
    style = ["--title", "A law", "--width", "4", "--height", "3"]
    drawn = spectrum("random-matrix", "-", "--format", "svg", *style, text=law).stdout
    assert drawn.startswith("<?xml")
    assert 'width="288pt"' in drawn
    assert ">A law</text>" in drawn
    assert ">A law</text>" in spectrum("result", job_id, "--format", "svg", "--title", "A law").stdout


def test_the_device_of_standard_output_survives(server: Any) -> None:
    """As root, `-o /dev/stdout` once replaced the device by a file."""
    command = [Path(sys.executable).with_name("spectrum"), "closed-form", "-", "--format", "png", "--url", server.url]
    done = subprocess.run(
        [*command, "-o", "/dev/stdout"], input=QUADRATIC.encode(), capture_output=True, check=True, timeout=60
    )
    assert done.stdout.startswith(b"\x89PNG")
    assert Path("/dev/stdout").is_symlink()


def test_a_picture_is_not_printed_on_a_terminal() -> None:
    controller, terminal = pty.openpty()
    command = [Path(sys.executable).with_name("spectrum"), "closed-form", "-", "--format", "png"]
    done = subprocess.run(command, input=b"{}", stdout=terminal, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 2
    assert b"png is not written to a terminal" in done.stderr


def test_a_density_is_drawn_in_the_terminal_while_it_is_computed(server: Any, client: SpectrumClient) -> None:
    long = JOB | {
        "model": {"kind": "mlp", "widths": [64, 400, 400, 10]},
        "data": {"kind": "digits"},
        "method": {"kind": "lanczos", "num_steps": 30, "num_probes": 8},
    }
    job_id = client.submit(long, fresh=True).id
    controller, terminal = pty.openpty()
    command = [Path(sys.executable).with_name("spectrum"), "watch", job_id, "--url", server.url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal) as watching:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # the last reader of a terminal gets an error in place of an end
            while piece := os.read(controller, 2**16):
                shown += piece
    os.close(controller)
    assert watching.returncode == 0
    drawn = re.findall(r"density of the eigenvalues, (\d+) probes of (\d+) steps", shown.decode())
    assert drawn[-1] == ("8", "30")
    assert len(set(drawn)) > 1
    ended = CliRunner().invoke(app, ["result", job_id, "--interim", "--url", server.url])
    assert json.loads(ended.stdout)["interim"] is False
    assert "⣀" in shown.decode()


def test_a_destination_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    """Not even a server is needed."""
    request = tmp_path / "request.json"
    request.write_text(json.dumps(JOB))
    (tmp_path / "folder.png").mkdir()
    for command in (["run", str(request)], ["closed-form", str(request)], ["random-matrix", str(request)]):
        for output, said in (("none/a.png", "No such file or directory"), ("folder.png", "Is a directory")):
            nowhere = ["--url", "http://127.0.0.1:1"]
            refused = CliRunner().invoke(app, [*command, "-o", str(tmp_path / output), *nowhere])
            assert refused.exit_code == 2
            assert said in " ".join(refused.output.replace("│", " ").split())


def test_a_density_is_smoothed_anew(spectrum: Any, tmp_path: Path) -> None:
    smoothing = ["--kappa", "9", "--num-points", "7", "--margin", "0.2"]
    job_id = json.loads(spectrum("submit", "-", text=json.dumps(JOB)).stdout)["id"]
    spectrum("run", "--fresh", "-", text=json.dumps(JOB))  # the only worker has ended the other one before
    found = json.loads(spectrum("result", job_id, *smoothing).stdout)
    assert found["smoothing"] == {"num_points": 7, "kappa": 9.0, "margin": 0.2}
    assert len(found["density"]["values"]) == 7
    refused = spectrum("result", job_id, "--kappa", "0.5", "-o", str(tmp_path / "a.png"))
    assert refused.exit_code == 2
    assert "--kappa: " in refused.output
    assert list(tmp_path.iterdir()) == []


def test_a_job_is_watched_to_its_end(spectrum: Any) -> None:
    job_id = json.loads(spectrum("submit", "-", text=json.dumps(JOB)).stdout)["id"]
    called = spectrum("watch", job_id)
    assert called.exit_code == 0, called.output
    assert json.loads(called.stdout)["state"] == "succeeded"
    diverging = json.dumps(JOB | {"train": {"num_steps": 200, "learning_rate": 1e9}})
    job_id = json.loads(spectrum("submit", "-", text=diverging).stdout)["id"]
    assert spectrum("watch", job_id).exit_code == 1
    assert "404" in spectrum("watch", "0" * 32).output


def test_submit_returns_before_the_end(spectrum: Any) -> None:
    called = spectrum("submit", "-", "--fresh", text=json.dumps(JOB))
    assert json.loads(called.stdout)["state"] in ("queued", "running")


@pytest.mark.parametrize(
    ("arguments", "text", "code", "said"),
    [
        (["closed-form", "-"], '{"model": {"kind": "linear"}}', 1, "body.model.w: Field required"),
        (["closed-form", "-"], "{", 2, "Expecting property name"),
        (["closed-form", "-"], "[]", 2, "must be a JSON object"),
        (["closed-form", "no-such-file.json"], None, 2, "No such file"),
        (["closed-form", "no-such-file.npz"], None, 2, "No such file"),
        (["closed-form", "-", "-o", "answer.gif"], QUADRATIC, 2, "ends in none of .json, .npz, .csv, .png, .svg"),
        (["run", "-", "-o", "answer.gif"], json.dumps(JOB), 2, "ends in none of .json, .npz, .csv, .png, .svg"),
        (["run", "-"], json.dumps(JOB | {"block": "z"}), 1, "body.block: no parameter has such a name"),
        (["result", "0" * 32], None, 1, "404 No such job"),
        (["list", "--state", "sleeping"], None, 2, "'sleeping' is not one of"),
        (["list", "--tag", "none"], None, 2, "--tag: "),
    ],
)
def test_mistakes_are_explained(spectrum: Any, arguments: list[str], text: str | None, code: int, said: str) -> None:
    called = spectrum(*arguments, text=text)
    assert called.exit_code == code
    assert said in " ".join(called.output.replace("│", " ").split())


def test_a_job_that_fails_makes_the_command_fail(spectrum: Any) -> None:
    request = json.dumps(JOB | {"train": {"num_steps": 200, "learning_rate": 1e9}})
    called = spectrum("run", "-", text=request)
    assert called.exit_code == 1
    assert "learning rate" in called.output


def test_an_unreachable_server_is_named() -> None:
    called = CliRunner().invoke(app, ["closed-form", "-", "--url", "http://127.0.0.1:1"], input=QUADRATIC)
    assert called.exit_code == 1
    assert "127.0.0.1:1 does not answer" in called.output


def test_jobs_are_listed_for_people_and_for_programs(spectrum: Any) -> None:
    job = json.loads(spectrum("run", "-", text=json.dumps(JOB)).stdout)
    assert job["method"] == "lanczos"
    table = spectrum("list", "--tag", "test:command").stdout.splitlines()
    assert table[0].split() == ["id", "state", "kind", "summary", "progress", "submitted", "tags"]
    assert any("lanczos, hessian of mlp" in line and "succeeded" in line and "test:command" in line for line in table)
    records = json.loads(spectrum("list", "--tag", "test:command", "--json").stdout)
    assert len(records) == len(table) - 1
    assert "lanczos, hessian of mlp" in {record["summary"] for record in records}
    nothing = spectrum("list", "--tag", "test:nothing")
    assert nothing.stdout == ""
    assert "no such jobs" in nothing.output
    assert json.loads(spectrum("list", "--tag", "test:nothing", "--json").stdout) == []
    for command in ("models", "artifacts"):
        assert isinstance(json.loads(spectrum(command, "--json").stdout), list)


def test_the_beginning_of_an_id_is_enough_if_no_other_has_it(spectrum: Any) -> None:
    ids = [json.loads(spectrum("submit", "-", text=json.dumps(JOB)).stdout)["id"] for _ in range(2)]
    assert json.loads(spectrum("job", ids[0][:20]).stdout)["id"] == ids[0]
    assert json.loads(spectrum("job", ids[0][:20].upper()).stdout)["id"] == ids[0]
    several = spectrum("job", ids[0][:4])
    assert several.exit_code == 2
    assert f"jobs begin with {ids[0][:4]}, such as" in " ".join(several.output.replace("│", " ").split())
    for missing in ("f" * 20, "f" * 32):
        none = spectrum("job", missing)
        assert none.exit_code == 1
        assert "no job" in none.output.lower().replace("such ", "")


def test_a_sweep_varies_fields_of_a_request(spectrum: Any, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    settings = ("--set", "method.num_probes=2,3", "--set", "model.widths=[[1,2,1],[1,3,1]]", "--set", "loss=mse,huber")
    done = spectrum("sweep", "-", *settings, "-o", str(path), text=json.dumps(JOB))
    assert done.exit_code == 0, done.output
    assert len(path.read_text().splitlines()) == 1 + 8
    wrong = spectrum("sweep", "-", "--set", "method.num_probes", text=json.dumps(JOB))
    assert wrong.exit_code == 2
    assert "field=value,value" in " ".join(wrong.output.split())


def test_the_page_is_opened(spectrum: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    job_id = json.loads(spectrum("submit", "-", text=json.dumps(JOB)).stdout)["id"]
    assert spectrum("open").stdout.strip() == f"{server.url}/"
    assert spectrum("open", job_id[:20]).stdout.strip() == f"{server.url}/#/jobs/{job_id}"
    assert opened == [f"{server.url}/", f"{server.url}/#/jobs/{job_id}"]
