"""`python -m worker.convert`: checkpoints of PyTorch, which are pickles, as directories that the server loads."""

import argparse
import json
import os
import pickle
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from api_schemas.checkpoints import CHECKPOINT_NAME, CheckpointError, LoadableModel
from checkpoints.causal_lm import OUTPUT_LAYERS
from checkpoints.configuration import FILE, Configuration, read_configuration
from checkpoints.directory import ModelsDirectory
from checkpoints.weights import WEIGHTS

HUGGING_FACE_FILE = "pytorch_model.bin"

_TRANSPOSED = re.compile(r"transformer\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_EMBEDDING, _OUTPUT_LAYER = "transformer.wte.weight", "lm_head.weight"
_SIZES = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "n_positions": "block_size"}

State = dict[str, Tensor]


def main() -> None:
    """Convert one checkpoint, or say in a line why not."""
    parser = argparse.ArgumentParser(prog="python -m worker.convert")
    parser.add_argument("source", type=Path)
    parser.add_argument("name")
    parser.add_argument("--models-dir", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        found = convert(arguments.source, arguments.name, arguments.models_dir)
    except (CheckpointError, OSError) as error:
        print(f"spectrum-server convert: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{found.name}: {found.kind}, {found.num_parameters:,} parameters, sha256 {found.sha256}")


def convert(source: Path, name: str, models_dir: Path) -> LoadableModel:
    """A directory `name` in the models directory, there when all of it is.

    Args:  source, a file of nanoGPT, or a directory of Hugging Face with config.json and pytorch_model.bin.
    Raises:  CheckpointError if the source is refused or no such checkpoint, or the name is taken; OSError.
    """
    target = models_dir / name
    if not re.fullmatch(CHECKPOINT_NAME, name):
        raise CheckpointError(f"{name!r} cannot be the name of a checkpoint")
    if target.exists():
        raise CheckpointError(f"there is a {name} in the models directory")
    configuration, state = _hugging_face(source) if source.is_dir() else _nano_gpt(source)
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".convert-") as directory:
        draft = Path(directory) / name
        draft.mkdir()
        (draft / FILE).write_text(json.dumps(configuration, indent=2) + "\n")
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, draft / WEIGHTS, {"format": "pt"})
        found = ModelsDirectory(Path(directory)).describe(name)
        if found.problem is not None:
            raise CheckpointError(found.problem)
        os.rename(draft, target)
    return found


def _nano_gpt(source: Path) -> tuple[Configuration, State]:
    """nanoGPT's linear layers hold the transposed weights, its gelu is the exact one."""
    content = _load(source)
    if not isinstance(content, Mapping) or not isinstance(content.get("model_args"), Mapping):
        raise CheckpointError(f"{source} is no checkpoint of nanoGPT: it holds no model_args")
    arguments = content["model_args"]
    for name in ("vocab_size", *_SIZES.values()):
        if type(arguments.get(name)) is not int:
            raise CheckpointError(f"{source} is no checkpoint of nanoGPT: its model_args have no whole number {name}")
    if not isinstance(arguments.get("bias", True), bool):
        raise CheckpointError(f"{source} is no checkpoint of nanoGPT: bias in its model_args is neither true nor false")
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in _tensors(source, content.get("model")).items()}
    output_layer = state.pop(_OUTPUT_LAYER, None)
    if output_layer is not None and not torch.equal(output_layer, state.get(_EMBEDDING, output_layer)):
        raise CheckpointError(f"{source} has an output layer that is not tied to the embedding")
    configuration = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "vocab_size": arguments.get("vocab_size"),
        "bias": arguments.get("bias", "transformer.ln_f.bias" in state),
    } | {ours: arguments.get(theirs) for ours, theirs in _SIZES.items()}
    kept = {name: tensor for name, tensor in state.items() if not _BUFFER.fullmatch(name)}
    return configuration, {n: tensor.T if _TRANSPOSED.fullmatch(n) else tensor for n, tensor in kept.items()}


def _hugging_face(source: Path) -> tuple[Configuration, State]:
    state = _tensors(source, _load(source / HUGGING_FACE_FILE))
    storages: dict[int, str] = {}
    for name, tensor in sorted(state.items(), key=lambda item: item[0] in OUTPUT_LAYERS):
        first = storages.setdefault(tensor.data_ptr(), name)
        if first != name and name in OUTPUT_LAYERS:  # tied: safetensors holds it once
            del state[name]
        elif first != name:
            state[name] = tensor.clone()
    return read_configuration(source / FILE), state


def _load(path: Path) -> Any:
    """Raises:  CheckpointError if the file holds anything but tensors and plain values: nothing of it is run."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no file")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused in the next moment
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError:
        message = f"{path} is refused: it holds more than tensors and plain values, or is damaged"
        raise CheckpointError(message) from None
    except Exception as error:
        # torch raises what its parts raise
        raise CheckpointError(f"{path} is no checkpoint of PyTorch: {type(error).__name__}") from error


def _tensors(source: Path, state: Any) -> State:
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(each, Tensor) for name, each in state.items()
    ):
        raise CheckpointError(f"{source} holds no tensors by name")
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{name:.100} is no dense tensor of plain numbers")
    return dict(state)


if __name__ == "__main__":
    main()
