"""The commands in the documents run as they are written, document by document, and so do the jobs between them.

A reader's folder holds the files that the commands read. Of what a document says, only this is replaced: the address of
the server, ids, directories of the system, and sizes that would take minutes.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.models.kind import parameter_shapes
from hessian_spectrum.client.http import SpectrumClient
from tests.conftest import free_port
from tests.docs.blocks import ROOT, Block, blocks

NOT_RUN = {
    r"docker ": "builds images and runs containers: `make test-compose` does so with the files of the repository",
    r"kubectl ": "needs a cluster: tests/deploy checks the manifests",
    r"git pull|make test\b": "would change or test the repository that is tested",
    r"make (?:demo|serve)\b": "starts a server at port 8000: tests/launcher does so at a free one",
    r"\S+python -m benchmarks\.": "takes half an hour",
}
"""Beginnings of commands that do not run here, with the reason."""

SMALLER = {
    "docs/transformers.md": {
        '"gpt2-124m"': '"tiny-gpt2"',
        '"num_sequences": 8, "sequence_length": 1024}': '"num_sequences": 2, "sequence_length": 16}',
        '"preset": "paper-figure-6"': '"num_steps": 4, "num_probes": 2',
        '"num_steps": 400': '"num_steps": 2',
        '"num_steps": 200': '"num_steps": 2',
        '"num_steps": 500': '"num_steps": 6',
        '"warmup_steps": 50': '"warmup_steps": 2',
        '"num_steps": 10000, "batch_size": 480, "decay_steps": 600000': '"num_steps": 6, "batch_size": 2',
        '"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50304': (
            '"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 256'
        ),
        '"k": 20, "which": "largest", "tolerance": 1e-3': '"k": 2, "which": "largest", "tolerance": 0.5',
        '"seeds":    [0, 1, 2]': '"seeds":    [0]',
        '"seeds":  [0, 1]': '"seeds":  [0]',
    },
    "docs/how-to/own-models.md": {
        '"vocab_size": 50257': '"vocab_size": 256',
        '"k": 3, "which": "both-ends"': '"k": 1, "which": "both-ends", "tolerance": 0.5',
    },
    "docs/how-to/figures.md": {'"num_networks": 30': '"num_networks": 3'},
    "docs/how-to/webhooks.md": {',\n  "webhook": "http://10.0.0.7:9000/spectra?token=of-your-own"': ""},
}
"""Replaced in these documents: the jobs would take minutes, or need a receiver, which test_webhooks.py has."""

EXIT_CODES = {r"\S+spectrum-server bind ": 1}
"""Of commands that do not end with 0: this one changes nothing without --yes."""

SLOW = {"docs/transformers.md", "docs/how-to/own-models.md"}
"""Documents that take a quarter of a minute each, as every new checkpoint is tried by a process of its own."""

COMMAND_LINE = "docs/how-to/command-line.md"
REPLIES = {"spectrum login": "\n"}
"""What a reader types, where a command asks."""


def commands(text: str) -> Iterator[str]:
    """The commands of a block, each with all of its lines."""
    lines: list[str] = []
    for line in text.splitlines():
        lines.append(line)
        command = "\n".join(lines)
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # within quotes
            continue
        if not line.endswith("\\"):
            lines = []
            if words:
                yield command
    assert lines == []


def is_run(command: str) -> bool:
    return not any(re.match(pattern, command) for pattern in NOT_RUN)


def is_job(block: Block) -> bool:
    """Whether it is the request of a job, or its data."""
    is_example = block.place.startswith("docs/how-to/add-")
    return block.language == "json" and not is_example and '"kind"' in block.text and '"eigenvalues"' not in block.text


STEPS = {
    document: [block for block in blocks() if block.place.partition(":")[0] == document]
    for document in dict.fromkeys(block.place.partition(":")[0] for block in blocks())
}
RUN = {
    block.place
    for block in blocks()
    if is_job(block) or (block.language == "bash" and any(map(is_run, commands(block.text))))
}
LEFT_OUT = {block.place for block in blocks() if block.language == "bash"} - RUN


@dataclass
class Reader:
    """Somebody who follows a document.

    Attributes:
        directory: Where the commands run.
        server: The server that they reach.
        ids: Of uploaded files, by what documents call them.
        job_ids: Of the jobs that were submitted, in their order.
    """

    directory: Path
    server: Any
    ids: dict[str, str]
    job_ids: list[str] = field(default_factory=list)

    def run(self, command: str) -> None:
        """Run a command, once the job that it is about has ended."""
        if re.search(r"\bID\b(?! of)|\b0006617|/series/", command):
            self.wait()
        home = self.directory / "home"
        environment = os.environ | {
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / ".local/state"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "SPECTRUM_URL": self.server.url,
            "BROWSER": "true",
        }
        program = f"set -euo pipefail\n{self.replaced(command)}"
        replies = next((text for begin, text in REPLIES.items() if command.startswith(begin)), "")
        done = subprocess.run(
            ["bash", "-c", program], cwd=self.directory, env=environment, input=replies.encode(),
            capture_output=True, check=False, timeout=120,
        )  # fmt: skip
        expected = next((code for pattern, code in EXIT_CODES.items() if re.match(pattern, command)), 0)
        assert done.returncode == expected, f"{program}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode()}"
        self.note(done.stdout)

    def note(self, output: bytes) -> None:
        """Remember the job of an answer."""
        try:
            answer = json.loads(output)
        except ValueError:  # a table, a picture, or several lines of JSON
            return
        if isinstance(answer, dict) and {"id", "state"} <= set(answer):
            self.job_ids.append(answer["id"])

    def request(self, body: str) -> None:
        """Send a request that a document shows; of data alone, that of a job with the data."""
        request = json.loads(self.replaced(body))
        if request["kind"] == "artifact":
            model = {"kind": "exported", "program": {"kind": "artifact", "id": self.ids["ID of a network for images"]}}
            method = {"kind": "top-k", "k": 1}
            request = {"kind": "spectrum", "model": model, "data": request, "loss": "cross-entropy", "method": method}
        with SpectrumClient(self.server.url) as client:
            self.job_ids.append(client.submit(request).id)

    def wait(self) -> None:
        """Wait for all jobs, which succeed."""
        with SpectrumClient(self.server.url) as client:
            for job_id in self.job_ids:
                job = client.wait(job_id)
                assert job.state == "succeeded", job

    def replaced(self, text: str) -> str:
        for name, value in sorted(self.ids.items(), key=lambda item: -len(item[0])):
            text = text.replace(name, value)
        text = text.replace("http://127.0.0.1:8000", self.server.url).replace(
            "--port 8000", f"--port {self.server.port}"
        )
        text = text.replace("https://spectra.example.org", self.server.url).replace("/srv/models", "models")
        if self.job_ids:
            text = re.sub(r"\bID\b", self.job_ids[-1], text)
            text = text.replace("0006617b3f", self.job_ids[-1]).replace("0006617c11", self.job_ids[0])
        return text


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, server: Any) -> Path:
    """A folder with what the documents' commands read."""
    directory = tmp_path_factory.mktemp("reader")
    (directory / ".venv").symlink_to(sys.prefix)
    (directory / "spectrum-data").symlink_to(server.data_directory)
    (directory / "home").mkdir()
    (directory / "home" / ".curlrc").write_text("fail-with-body\nshow-error\n")
    write_tracked_run(directory / "home" / ".local/state/hessian-spectrum/tracked")
    (directory / "models").mkdir()
    job = blocks_of("docs/how-to/jobs.md", "bash")[0].partition("-d '")[2].partition("'")[0]
    (directory / "job.json").write_text(json.dumps(json.loads(job) | {"tags": {"paper": "one"}}))
    write_arrays(directory)
    write_checkpoints(directory)
    return directory


def blocks_of(document: str, language: str) -> list[str]:
    return [block.text for block in STEPS[document] if block.language == language]


def write_tracked_run(directory: Path) -> None:
    """What a training run leaves on the disk if the server is away until its end."""
    torch.manual_seed(0)
    network, x, y = nn.Linear(3, 1), torch.randn(4, 3), torch.randn(4, 1)
    with SpectrumClient(f"http://127.0.0.1:{free_port()}") as client:
        tracker = client.track(network, loss="mse", data=(x, y), every=1, name="away", directory=directory)
        tracker.step(0, learning_rate=0.1)
        tracker.close(wait=0)
    assert list(directory.iterdir())


def write_arrays(directory: Path) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 5)), generator.integers(0, 3, 12)
    np.savez(directory / "network.npz", kind="linear", w=[0.5, -1.0], v=[1.0, 0.5], x=[1.0, -0.5], y=[0.8, -0.1])
    for name, shape in {"W1": (3, 2), "W2": (1, 3), "x": (4, 2), "y": (4, 1)}.items():
        np.save(directory / f"{name}.npy", generator.normal(size=shape))
    np.savez(directory / "data.npz", x=x, y=y)
    np.savez(directory / "images.npz", x=generator.integers(0, 256, (6, 3, 4, 4), np.uint8), y=y[:6])
    generator.integers(0, 200, 5000).astype(np.uint16).tofile(directory / "train.bin")
    shapes = {"layers.0.weight": (4, 5), "layers.0.bias": (4,), "layers.1.weight": (3, 4), "layers.1.bias": (3,)}
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, directory / "weights.safetensors")


def write_checkpoints(directory: Path) -> None:
    """nanoGPT's file, a small GPT-2, and that of Lightning, a small Llama with its configuration."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 256}
    torch.manual_seed(0)
    shapes = parameter_shapes(Gpt2.model_validate({"kind": "gpt2", "n_positions": 64, **sizes}))
    state = {f"transformer.{name.replace('blocks.', 'h.')}": torch.randn(shape) / 3 for name, shape in shapes.items()}
    state = {
        name: tensor.mT.contiguous() if ".c_" in name and tensor.ndim == 2 else tensor for name, tensor in state.items()
    }
    state["lm_head.weight"] = state["transformer.wte.weight"]
    content = {"model": state, "model_args": sizes | {"block_size": 64, "bias": True, "dropout": 0.0}}
    for path in (directory / "out" / "ckpt.pt", directory / "ckpt.pt"):
        path.parent.mkdir(exist_ok=True)
        torch.save(content, path)
    configuration = LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    configuration.save_pretrained(directory)
    checkpoint = directory / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"state_dict": LlamaForCausalLM(configuration).state_dict()}, checkpoint)


@pytest.fixture(scope="module")
def ids(files: Path, server: Any) -> dict[str, str]:
    """Ids of uploaded files, by what documents call them."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    of_images = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    x, images = torch.randn(12, 5), torch.randn(6, 3, 4, 4)
    with SpectrumClient(server.url) as client:
        program = client.upload_module(network, x)["program"]["id"]
        first, second = (
            client.upload_parameters(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)))["id"] for _ in range(2)
        )
        found = {
            "ID of weights": client.upload_arrays(files / "weights.safetensors").id,
            "ID of data": client.upload_arrays(files / "data.npz").id,
            "ID of images": client.upload_arrays(files / "images.npz").id,
            "ID of tokens": client.upload_tokens(files / "train.bin").id,
            "ID of the program": program,
            "ID of parameters": first,
            "ID of others": second,
            "ID of a network for images": client.upload_module(of_images, images)["program"]["id"],
        }
    (export,) = (text for text in blocks_of("docs/how-to/own-networks.md", "python") if "torch.onnx.export" in text)
    with contextlib.chdir(files), warnings.catch_warnings(action="ignore"):  # of torch, about its own code
        exec(compile(export, "own-networks.md", "exec"), {"torch": torch, "module": network, "x": x})
    return found


@pytest.fixture
def reader(files: Path, ids: dict[str, str], server: Any) -> Reader:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    for name in ("my-gpt", "my-llama"):  # which more than one document converts
        shutil.rmtree(server.data_directory / "models" / name, ignore_errors=True)
    return Reader(files, server, ids)


def smaller(document: str, text: str) -> str:
    for written, sent in SMALLER.get(document, {}).items():
        text = text.replace(written, sent)
    return text


def documents() -> Iterator[Any]:
    for name, steps in STEPS.items():
        if RUN & {step.place for step in steps}:
            yield pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("document", list(documents()))
def test_a_reader_can_follow_the_document(document: str, reader: Reader) -> None:
    if document == COMMAND_LINE:
        reader.run("spectrum submit job.json")
        reader.run("spectrum submit job.json")
    for block in STEPS[document]:
        text = smaller(document, block.text)
        if is_job(block):
            reader.request(text)
        elif block.language == "bash":
            for command in filter(is_run, commands(text)):
                reader.run(command)
    reader.wait()


def test_what_is_replaced_is_in_the_documents() -> None:
    for document, replacements in SMALLER.items():
        text = (ROOT / document).read_text()
        assert [each for each in replacements if each not in text] == []


def test_what_is_not_run_is_in_the_documents() -> None:
    every = [command for block in blocks() if block.language == "bash" for command in commands(block.text)]
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, command) for command in every)] == []


@pytest.mark.parametrize("command", ["curl -s http://127.0.0.1:8000/v1/nothing", "spectrum run no-such-file.json"])
def test_a_command_that_fails_is_found(command: str, reader: Reader) -> None:
    with pytest.raises(AssertionError):
        reader.run(command)


def test_lines_of_a_command_belong_together() -> None:
    text = "a -d '{\n  \"b\": 1\n}'\n\nc \\\n  d  # it's a comment\n# no command\ne"
    assert list(commands(text)) == ["a -d '{\n  \"b\": 1\n}'", "c \\\n  d  # it's a comment", "e"]
