"""The Python programs in the documents run as they are written, and closed forms are those that the documents print."""

import itertools
import json
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from hessian_spectrum.client.http import SpectrumClient
from tests.docs.blocks import Block, blocks

WRITTEN_ADDRESS = ("127.0.0.1", 8000)
BLOCKS = blocks()
SERVERS = "docs/how-to/webhooks.md"
"""A document whose program does not end; test_webhooks.py runs it."""
CONTINUED = "docs/how-to/python-client.md"
"""A document whose programs go on where the one before ended."""
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.place.startswith(SERVERS)]
PROGRAMS = [block for block in PYTHON if "with SpectrumClient(" in block.text or block.place.startswith(CONTINUED)]
FRAGMENTS = [block for block in PYTHON if block not in PROGRAMS]
NEEDS_JAX = ("model = client.upload_module(module, x)  ", "model = jax2onnx.")
"""Beginnings of fragments for JAX, which is not among the packages of development."""
EXPORT = "torch.onnx.export("
"""Beginning of the fragment that writes the file which test_commands.py uploads."""
OUTPUTS = {
    program: output
    for program, output in itertools.pairwise(BLOCKS)
    if program in PROGRAMS and re.match(r"\d", output.text) and output.language == "text"
}
"""What the documents say that a program prints."""
RUN_FRAGMENTS = [block for block in FRAGMENTS if not block.text.startswith((*NEEDS_JAX, EXPORT))]
ANSWERS = [
    (question, answer)
    for question, answer in itertools.pairwise(BLOCKS)
    if question.language == "bash" and "/v1/closed-form" in question.text and answer.language == "json"
]


@pytest.fixture
def at_the_written_address(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to the address in the documents reach the server of the tests, whose port is another one."""
    connect = socket.create_connection

    def redirected(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        return connect(("127.0.0.1", server.port) if address == WRITTEN_ADDRESS else address, *arguments, **options)

    monkeypatch.setattr(socket, "create_connection", redirected)


def test_readme_and_tutorial_have_a_program_and_an_answer() -> None:
    for found in (PROGRAMS, [answer for _, answer in ANSWERS]):
        assert {block.place.partition(":")[0] for block in found} >= {"README.md", "docs/tutorial.md"}


def check_spectrum(output: str) -> None:
    largest, _, inertia = output.partition(" ")
    assert float(largest) > 0
    assert inertia.startswith("negative=")


def check_edge_of_stability(output: str) -> None:
    """The sharpness rises from below 2 / learning rate, and settles around it while the loss decreases."""
    step, loss, sharpness, threshold = np.array([line.split() for line in output.splitlines()], float).T
    assert step.tolist() == list(range(0, 1000, 50))
    assert set(threshold) == {2 / 0.6}
    settled = sharpness[len(step) // 2 :]
    assert sharpness[0] < 0.6 * threshold[0]
    assert (np.diff(sharpness[: len(step) // 3]) > 0).all()
    assert settled.mean() == pytest.approx(threshold[0], rel=0.05)
    assert np.abs(settled - threshold[0]).max() < 0.15 * threshold[0]
    assert loss[-1] < 0.7 * loss[len(step) // 2 - 1] < 0.1 * loss[0]


def check_logged(output: str) -> None:
    step, largest = np.array([line.split() for line in output.splitlines()], float).T
    assert step.tolist() == [0, 20, 40]
    assert (largest > 0).all()


def check_largest(output: str) -> None:
    assert output.startswith("largest eigenvalue 0.7")


def check_interim(output: str) -> None:
    assert output.splitlines()[-1].startswith("False ")


def check_grid(output: str) -> None:
    assert [line.partition("}")[0] for line in output.splitlines()][-1] == "{'model.seed': 2, 'method.num_probes': 8"


def check_silent(output: str) -> None:
    assert output == ""


CHECKS = {
    "client.track(": check_edge_of_stability,
    "TensorBoardLogger(": check_logged,
    "largest eigenvalue": check_largest,
    "interim_results(": check_interim,
    "submit_many(": check_grid,
    ".plot(": check_silent,
    "FakeServer(": check_silent,
}
"""Checks of what a program prints, by words that only this one has."""

PAGES = {page: list(each) for page, each in itertools.groupby(PROGRAMS, lambda block: block.place.partition(":")[0])}


@pytest.mark.usefixtures("at_the_written_address")
@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_run_as_they_are_written(
    page: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in PAGES[page]:  # a later one goes on where the one before it ended
        exec(compile(block.text, block.place, "exec"), names)
        printed = capsys.readouterr().out
        next((each for words, each in CHECKS.items() if words in block.text), check_spectrum)(printed)
        if block in OUTPUTS:
            largest, counts = OUTPUTS[block].text.split(maxsplit=1)
            assert float(printed.split()[0]) == pytest.approx(float(largest), rel=1e-4)
            assert re.findall(r"\w+=", printed) == re.findall(r"\w+=", counts)
    for client in [value for value in names.values() if isinstance(value, SpectrumClient)]:
        client.close()


def names_of_fragments(client: SpectrumClient) -> dict[str, Any]:
    """What the text around the fragments says that there is."""
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 4, 4), torch.randint(3, (6,))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    return {
        "client": client,
        "images": images.numpy(),
        "labels": labels.numpy(),
        "tokens": torch.randint(9, (6, 4)),
        "mask": torch.ones(6, 4),
        "model": client.upload_module(network, images),
        "x": images,
        "y": labels,
        "Trainer": lambda *_, callbacks: callbacks,
    }


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in RUN_FRAGMENTS])
def test_the_fragment_runs_with_what_the_text_names(block: Block, client: SpectrumClient) -> None:
    names = names_of_fragments(client)
    before = set(names)
    exec(compile(block.text, block.place, "exec"), names)
    made = {name: value for name, value in names.items() if name not in before and not name.startswith("__")}
    assert made
    assert None not in made.values()
    if "result" in made:
        assert made["result"].num_parameters == 147


def test_fragments_that_do_not_run_are_in_the_documents() -> None:
    left_out = [block for block in FRAGMENTS if block not in RUN_FRAGMENTS]
    assert len(left_out) == len((*NEEDS_JAX, EXPORT))


@pytest.mark.parametrize(("question", "answer"), [pytest.param(*pair, id=pair[1].place) for pair in ANSWERS])
def test_the_closed_form_is_the_printed_one(question: Block, answer: Block, server: Any) -> None:
    body = question.text.partition("-d '")[2].rpartition("'")[0]
    headers = {"Content-Type": "application/json"}
    found = httpx.post(f"{server.url}/v1/closed-form", content=body, headers=headers).raise_for_status().json()
    printed = json.loads(answer.text.replace(", ...", ""))
    assert abridged(rounded(found), printed) == rounded(printed)


def abridged(found: Any, printed: Any) -> Any:
    """What the document shows of an answer: where it has `...`, it leaves fields out."""
    if isinstance(printed, dict):
        return {name: abridged(found[name], value) for name, value in printed.items()}
    return found


def rounded(value: Any) -> Any:
    """Floating-point numbers without their last digits, which depend on the machine."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.13g}") if isinstance(value, float) else value
