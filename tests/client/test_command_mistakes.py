"""Mistakes of people who type commands: each is explained by a sentence, with exit code 2."""

import json
from pathlib import Path
from typing import Any

import pytest

from hessian_spectrum.client.testing import FakeServer
from tests.client.conftest import called

JOB = json.dumps({"kind": "spectrum", "model": {"kind": "mlp", "seed": 1}, "loss": "mse"})


def refused(*arguments: str, text: str | None = None) -> str:
    """What is said to somebody whose command is refused."""
    done = called(*arguments, text=text)
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    return " ".join(done.output.replace("│", " ").split())


def test_a_job_is_not_deleted_without_most_of_its_id(fake: FakeServer) -> None:
    job_id = json.loads(called("submit", "-", text=JOB).stdout)["id"]
    for command in ("delete", "cancel"):
        assert "the id of the job is empty" in refused(command, "")
        assert "the id of the job is empty" in refused(command, " ")
        assert "is too short: give at least 8 digits" in refused(command, job_id[:7])
    for command in ("job", "watch", "result", "compare", "open"):
        assert "the id of the job is empty" in refused(command, "")
        assert "is not the id of a job" in refused(command, "../models")
        assert "is not the id of a job" in refused(command, job_id + "0")
    assert called("job", job_id[:7]).exit_code == 0
    assert called("delete", job_id[:8]).exit_code == 0
    assert called("list", "--json").stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "a number that is not finite"),
        ('{"a": [1e999]}', "a number that is not finite"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 900 + "]" * 900 + "}", None),
        ('{"a": "\\ud800"}', "half of a character"),
        ('{"a": ' + "1" * 5000 + "}", "limit"),
        ("", "Expecting value"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_json_that_cannot_be_sent_is_refused(fake: FakeServer, tmp_path: Path, text: str, said: str | None) -> None:
    path = tmp_path / "job.json"
    path.write_text(text, encoding="utf-8")
    for command in ("run", "submit", "estimate", "closed-form", "random-matrix"):
        done = called(command, str(path))
        assert done.exception is None or isinstance(done.exception, SystemExit)
        if said:
            assert said in refused(command, str(path))
    assert (len(fake.requests) > 0) == (said is None)


def test_a_file_that_is_no_text_is_refused(fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_bytes(b"\xff\xfe{")
    assert "is not a text in UTF-8" in refused("run", str(tmp_path / "job.json"))
    assert "Is a directory" in refused("run", str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.seed=1", "model.seed=2"], "--set names model.seed more than once"),
        (["model.widths=[64,16,10],[64,8,10]"], "model.widths=[[64,16,10],[64,8,10]]"),
        (["model.widths=[64,16"], "is not a list of values in JSON"),
        (["model.widths=[" + "[" * 100_000], "nested too deeply"),
        (["seed=[]"], "is not a list with values"),
        (['model={"kind":"mlp"}'], "is not a list with values"),
        (["seed=1,,2"], "an empty value"),
        (["seed="], "is not of the form field=value,value"),
    ],
)
def test_settings_of_a_sweep_are_checked(fake: FakeServer, settings: list[str], said: str) -> None:
    options = [each for setting in settings for each in ("--set", setting)]
    assert said in refused("sweep", "-", *options, text=JOB)
    assert fake.requests == []


def test_numbers_that_are_none_are_texts(fake: FakeServer) -> None:
    called("sweep", "-", "--set", "loss=mse,huber", "--set", "x=NaN", "--set", "model.widths=[[1,2],[1,3]]", text=JOB)
    assert fake.requests[0]["over"] == {"loss": ["mse", "huber"], "x": ["NaN"], "model.widths": [[1, 2], [1, 3]]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--width", "3"], "--width needs a picture"),
        (["--title", "", "-o", "a.csv"], "--title needs a picture"),
        (["--format", "json", "--height", "3", "--dpi", "9"], "--height, --dpi needs a picture"),
        (["--format", "svg", "--dpi", "9"], "--dpi is for PNG pictures, not for svg"),
        (["--format", "png", "-o", "x.svg"], "x.svg does not end like a file of the format png"),
        (["--json", "-o", "x.svg"], "x.svg does not end like a file of the format json"),
        (["--json", "--format", "npz"], "--json contradicts --format npz"),
    ],
)
@pytest.mark.parametrize("command", [["run", "-"], ["closed-form", "-"], ["result", "0" * 32]])
def test_options_without_effect_are_refused(
    fake: FakeServer, command: list[str], options: list[str], said: str
) -> None:
    assert said in refused(*command, *options, text=JOB)
    assert fake.requests == []


@pytest.mark.parametrize(
    "command", [["list", "--tag", "\udcff:a"], ["result", "0" * 32, "--format", "svg", "--title", "\udcff", "-o", "-"]]
)
def test_bytes_that_are_no_text_are_refused(fake: FakeServer, command: list[str]) -> None:
    assert "bytes that are not text in UTF-8" in refused(*command)


def test_a_folder_that_does_not_exist_is_no_tracked_run(fake: FakeServer) -> None:
    assert "does not exist" in refused("track", "send", "/nonexist")


def test_the_ending_of_a_file_says_what_it_holds(tmp_path: Path, fake: Any) -> None:
    (tmp_path / "a.txt").touch()
    assert "the ending of a.txt does not say what the file holds: it must be one of .bin, .npy" in refused(
        "upload", str(tmp_path / "a.txt")
    )
