"""Checkpoints of nanoGPT and PyTorch files of Hugging Face: converted, compared, refused without running anything."""

import argparse
import fractions
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from hessian_spectrum.api_schemas.checkpoints import CheckpointError
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.worker.builders import Inputs, build_model, build_parameters
from hessian_spectrum.worker.convert import convert

ARGUMENTS = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 10, "vocab_size": 17, "bias": True, "dropout": 0.1}


class NanoNorm(nn.Module):
    """nanoGPT's layer norm, whose bias may be left out."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class NanoBlock(nn.Module):
    """A block of nanoGPT."""

    def __init__(self, width: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ln_1, self.ln_2 = NanoNorm(width, bias), NanoNorm(width, bias)
        linear = {"c_attn": nn.Linear(width, 3 * width, bias), "c_proj": nn.Linear(width, width, bias)}
        self.attn = nn.ModuleDict(linear)
        self.attn.register_buffer("bias", torch.tril(torch.ones(10, 10)).view(1, 1, 10, 10))
        linear = {"c_fc": nn.Linear(width, 4 * width, bias), "c_proj": nn.Linear(4 * width, width, bias)}
        self.mlp = nn.ModuleDict(linear)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        parts = self.attn["c_attn"](self.ln_1(x)).split(width, dim=2)
        q, k, v = (part.view(n, length, self.num_heads, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, length, width)
        x = x + self.attn["c_proj"](mixed)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class NanoGpt(nn.Module):
    """nanoGPT's names, layouts and arithmetic."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        blocks = nn.ModuleList(NanoBlock(8, 2, bias) for _ in range(2))
        parts = {"wte": nn.Embedding(17, 8), "wpe": nn.Embedding(10, 8), "h": blocks, "ln_f": NanoNorm(8, bias)}
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(8, 17, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.transformer["wte"](tokens) + self.transformer["wpe"](torch.arange(tokens.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., tuple[NanoGpt, Path]]:
    """Saves a nanoGPT as its training script does."""

    def save_nano(bias: bool = True, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[NanoGpt, Path]:
        torch.manual_seed(0)
        model = NanoGpt(bias).to(dtype)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, dtype=dtype)
        state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
        content = {"model": state, "model_args": ARGUMENTS | {"bias": bias}, "iter_num": 5, "optimizer": {"lr": 0.1}}
        torch.save(content | changes, tmp_path / "ckpt.pt")
        return model, tmp_path / "ckpt.pt"

    return save_nano


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_nano_gpt(
    save: Callable[..., Any], tmp_path: Path, bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    theirs, source = save(bias, dtype)
    models = ModelsDirectory(tmp_path / "models")
    found = convert(source, "nano", tmp_path / "models")
    assert models.describe_all() == [found]
    assert found.num_parameters == sum(parameter.numel() for parameter in theirs.parameters())
    fields = models.gpt2("nano").model_dump()
    assert (fields["bias"], fields["activation"]) == (bias, "gelu")

    spec = Gpt2.model_validate({"kind": "gpt2", "checkpoint": "nano"} | fields)
    ours = build_model(spec)
    parameters = build_parameters(spec, ours, dtype=dtype, device=torch.device("cpu"), sources=Inputs(models))
    tokens = torch.randint(17, (3, 9), generator=torch.Generator().manual_seed(1))
    expected = theirs(tokens).detach()
    assert float(expected.std()) > 0.5
    assert_close(ours(parameters, tokens), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_args": ARGUMENTS | {"n_layer": 3}}, "h.2.attn.c_attn.bias is missing"),
        ({"model_args": ARGUMENTS | {"vocab_size": None}}, "model_args have no whole number vocab_size"),
        ({"model_args": ARGUMENTS | {"n_embd": "8"}}, "model_args have no whole number n_embd"),
        ({"model_args": None}, "it holds no model_args"),
        ({"model": None}, "holds no tensors by name"),
        ({"model": {"transformer.wte.weight": 1.0}}, "holds no tensors by name"),
        ({"model_args": ARGUMENTS | {"n_layer": torch.tensor(2)}}, "model_args have no whole number n_layer"),
        ({"model_args": ARGUMENTS | {"bias": "no"}}, "bias in its model_args"),
        ({"model": {3: torch.zeros(2)}}, "holds no tensors by name"),
        ({"model": {"transformer.wte.weight": torch.eye(3).to_sparse()}}, "is no dense tensor"),
        ({"model": {"transformer.wte.weight": torch.zeros(2, device="meta")}}, "is no dense tensor"),
        ({"model": {}}, "is missing"),
    ],
)
def test_what_is_no_nano_gpt_is_explained(
    save: Callable[..., Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    _, source = save(**changes)
    with pytest.raises(CheckpointError, match=said):
        convert(source, "nano", tmp_path / "models")
    assert not list((tmp_path / "models").glob("*")) if (tmp_path / "models").exists() else True


def test_an_output_layer_of_its_own_becomes_a_causal_lm(save: Callable[..., Any], tmp_path: Path) -> None:
    """Whose logits are nanoGPT's: the engine's own GPT-2 is tied, that of transformers need not be."""
    theirs, source = save()
    head = 0.3 * torch.randn(17, 8, generator=torch.Generator().manual_seed(1))
    save(model=theirs.state_dict() | {"lm_head.weight": head})
    found = convert(source, "nano", tmp_path / "models")
    assert (found.kind, found.state, found.problem) == ("causal-lm", "unchecked", None)
    assert found.num_parameters == sum(parameter.numel() for parameter in theirs.parameters()) + 17 * 8
    models = ModelsDirectory(tmp_path / "models")
    fields = models.causal_lm("nano").model_dump()
    spec = CausalLm.model_validate({"kind": "causal-lm", "checkpoint": "nano"} | fields)
    ours = build_model(spec, Inputs(models))
    parameters = build_parameters(spec, ours, dtype=torch.float32, device=torch.device("cpu"), sources=Inputs(models))
    tokens = torch.randint(17, (3, 9), generator=torch.Generator().manual_seed(1))
    theirs.lm_head.weight = nn.Parameter(head)
    expected = theirs(tokens).detach()
    assert_close(ours(parameters, tokens), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_one_without_biases_is_refused_where_transformers_has_none(save: Callable[..., Any], tmp_path: Path) -> None:
    model, source = save(bias=False)
    save(bias=False, model=model.state_dict() | {"lm_head.weight": torch.zeros(17, 8)})
    with pytest.raises(CheckpointError, match="output layer that is not tied to the embedding, and no biases"):
        convert(source, "nano", tmp_path / "models")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "module._orig_mod."])
def test_numbers_of_numpy_and_prefixes_of_distributed_training_do_no_harm(
    save: Callable[..., Any], tmp_path: Path, prefix: str
) -> None:
    theirs, source = save()
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    best = {"best_val_loss": np.float64(1.5), "seen": np.int64(3), "losses": np.ones(3), "rng": np.random.get_state()}
    save(model=state, config=argparse.Namespace(lr=np.float32(0.1)), **best)
    found = convert(source, "nano", tmp_path / "models")
    assert found.num_parameters == sum(parameter.numel() for parameter in theirs.parameters())


def test_a_name_is_used_once_and_stays_inside(save: Callable[..., Any], tmp_path: Path) -> None:
    _, source = save()
    convert(source, "nano", tmp_path / "models")
    before = (tmp_path / "models" / "nano" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="there is a nano"):
        convert(source, "nano", tmp_path / "models")
    for name in ("../nano", "a/b", "..", ""):
        with pytest.raises(CheckpointError, match="cannot be the name"):
            convert(source, name, tmp_path / "models")
    assert (tmp_path / "models" / "nano" / "model.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["nano"]


class Evil:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, is_archive: bool) -> None:
    source, trace = tmp_path / "ckpt.pt", tmp_path / "trace"
    content = {"model": Evil(trace), "model_args": ARGUMENTS}
    torch.save(content, source) if is_archive else source.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="is refused: it holds more than tensors and plain values"):
        convert(source, "evil", tmp_path / "models")
    assert not trace.exists()
    assert not (tmp_path / "models").exists()
    torch.load(source, weights_only=False) if is_archive else pickle.loads(source.read_bytes())
    assert trace.exists()  # it would have run


def test_what_is_refused_is_named(tmp_path: Path) -> None:
    torch.save(
        {"model": {}, "trainer": Evil(tmp_path / "trace"), "when": fractions.Fraction(1, 2)}, tmp_path / "ckpt.pt"
    )
    with pytest.raises(CheckpointError, match=r"plain values \(builtins\.getattr, fractions\.Fraction, pathlib"):
        convert(tmp_path / "ckpt.pt", "evil", tmp_path / "models")


def llama(tmp_path: Path) -> tuple[dict[str, Tensor], Path]:
    """Random weights, and config.json."""
    shapes = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (8, 8), "self_attn.v_proj": (8, 8)}
    shapes |= {"self_attn.o_proj": (8, 8), "mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}
    shapes |= {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
    every = {f"model.layers.0.{name}.weight": shape for name, shape in shapes.items()}
    every |= {"model.embed_tokens.weight": (19, 8), "model.norm.weight": (8,), "lm_head.weight": (19, 8)}
    fields = {"model_type": "llama", "vocab_size": 19, "hidden_size": 8, "intermediate_size": 12}
    fields |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return {name: torch.randn(shape) for name, shape in every.items()}, tmp_path / "config.json"


@pytest.mark.parametrize(
    ("key", "prefix"), [("state_dict", "model."), ("model", "module."), (None, ""), (None, "net.lm.")]
)
def test_tensors_alone_are_converted_where_a_configuration_is_given(
    tmp_path: Path, key: str | None, prefix: str
) -> None:
    """As Lightning writes them, with the name of the attribute that holds the model, or as torch.save does."""
    weights, config = llama(tmp_path)
    state = {prefix + name: tensor for name, tensor in weights.items()}
    lightning = {"epoch": 3, "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 0.1}}
    torch.save(state if key is None else lightning | {key: state}, tmp_path / "last.ckpt")
    found = convert(tmp_path / "last.ckpt", "tiny", tmp_path / "models", config=config)
    assert (found.kind, found.num_parameters) == ("causal-lm", sum(tensor.numel() for tensor in weights.values()))
    converted = load_file(tmp_path / "models" / "tiny" / "model.safetensors")
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in weights.items())


def test_tensors_alone_need_a_configuration_that_fits(tmp_path: Path) -> None:
    weights, config = llama(tmp_path)
    torch.save(weights, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="it holds no model_args; that of another model needs --config"):
        convert(tmp_path / "last.ckpt", "tiny", tmp_path / "models")
    config.write_text(config.read_text().replace("12", "13"))
    with pytest.raises(CheckpointError, match=r"disagree.* model.layers.0.mlp.down_proj.weight is \(8, 13\)"):
        convert(tmp_path / "last.ckpt", "tiny", tmp_path / "models", config=config)
    assert not (tmp_path / "models").exists()


def test_files_of_hugging_face_in_parts_are_one_checkpoint(tmp_path: Path) -> None:
    weights, _ = llama(tmp_path)
    names = list(weights)
    index = {name: f"pytorch_model-0000{1 + place % 2}-of-00002.bin" for place, name in enumerate(names)}
    for file in set(index.values()):
        torch.save({name: weights[name] for name in names if index[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    found = convert(tmp_path, "tiny", tmp_path / "models")
    assert found.num_parameters == sum(tensor.numel() for tensor in weights.values())
    for bad in ({"a": "../x.bin"}, {}, {"a": 3}, None):
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(CheckpointError, match="holds no weight_map"):
            convert(tmp_path, "other", tmp_path / "models")


def test_the_command_says_in_a_line_why_it_refuses(tmp_path: Path) -> None:
    source = tmp_path / "ckpt.pt"
    source.write_bytes(pickle.dumps({"model": Evil(tmp_path / "trace")}))
    command = [Path(sys.executable).with_name("spectrum-server"), "convert", str(source), "evil"]
    command += ["--models-dir", str(tmp_path / "models")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    said = f"{source} is refused: it holds more than tensors and plain values, or is damaged"
    assert done.stderr == f"spectrum-server convert: {said}\n"
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04" + bytes(100)])
def test_files_of_something_else_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ckpt.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is (refused|no checkpoint of PyTorch)"):
        convert(tmp_path / "ckpt.pt", "nano", tmp_path / "models")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        convert(tmp_path / "none.pt", "nano", tmp_path / "models")


def test_a_directory_of_hugging_face_is_converted(write_gpt2: Callable[..., Path], tmp_path: Path) -> None:
    source = write_gpt2(tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    tied = weights | {"lm_head.weight": weights["transformer.wte.weight"]}
    torch.save(tied, source / "pytorch_model.bin")
    found = convert(source, "tiny", tmp_path / "models")
    assert found.kind == "gpt2"
    converted = load_file(tmp_path / "models" / "tiny" / "model.safetensors")
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in weights.items())
    assert json.loads((tmp_path / "models" / "tiny" / "config.json").read_text())["model_type"] == "gpt2"
