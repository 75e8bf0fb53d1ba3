"""Conversion of PyTorch checkpoints, which are pickles, to directories that the server loads."""

import argparse
import json
import os
import pickle
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import numpy._core.multiarray
import torch
from safetensors.torch import save_file
from torch import Tensor

from hessian_spectrum.api_schemas.checkpoints import (
    CHECKPOINT_NAME,
    CheckpointError,
    CheckpointVerdict,
    DecoderSizes,
    LoadableModel,
)
from hessian_spectrum.checkpoints.causal_lm import OUTPUT_LAYERS, is_buffer
from hessian_spectrum.checkpoints.checkpoint import WEIGHTS, without_wrappers
from hessian_spectrum.checkpoints.configuration import FILE, Configuration, read_configuration
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.curvature.models.decoder_architecture import decoder_architecture
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.worker.checkpoints import decoder_sizes

HUGGING_FACE_FILE = "pytorch_model.bin"
HUGGING_FACE_INDEX = "pytorch_model.bin.index.json"

STATES = ("state_dict", "model_state_dict", "model")
"""Keys under which trainers store the tensors by name; Lightning uses the first."""

_TRANSPOSED = re.compile(r"transformer\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_EMBEDDING, _OUTPUT_LAYER = "transformer.wte.weight", "lm_head.weight"
_SIZES = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "n_positions": "block_size"}

_MAX_PREFIXES = 3
_MAX_CLASSES_SHOWN = 3

State = dict[str, Tensor]

_PLAIN: list[Any] = [
    numpy.dtype,
    numpy.ndarray,
    numpy._core.multiarray.scalar,
    numpy._core.multiarray._reconstruct,
    (numpy._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (numpy._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    *(kind for kind in vars(numpy.dtypes).values() if isinstance(kind, type) and issubclass(kind, numpy.dtype)),
    argparse.Namespace,
]
"""Types that a file may hold besides tensors: numpy's numbers and command-line options, which run no code."""


def main() -> None:
    """Convert one checkpoint, or say in a line why not."""
    parser = argparse.ArgumentParser(prog="python -m hessian_spectrum.worker.convert")
    parser.add_argument("source", type=Path)
    parser.add_argument("name")
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--config", type=Path, help="config.json of a file that holds tensors alone")
    arguments = parser.parse_args()
    try:
        found = convert(arguments.source, arguments.name, arguments.models_dir, config=arguments.config)
    except (CheckpointError, OSError) as error:
        print(f"spectrum-server convert: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{found.name}: {found.kind}, {found.num_parameters:,} parameters, sha256 {found.sha256}")


def convert(source: Path, name: str, models_dir: Path, *, config: Path | None = None) -> LoadableModel:
    """Write a checkpoint into the models directory, where it appears only when it is complete.

    Args:
        source: A file of nanoGPT, a directory of Hugging Face with config.json and pytorch_model.bin, in one file or
            several, or with `config` any file that holds tensors by name, as Lightning and `torch.save` write it.
        name: Name of the new checkpoint.
        models_dir: The models directory.
        config: config.json of the model, as transformers has it.

    Returns:
        Description of the checkpoint.

    Raises:
        CheckpointError: If the source is refused or no such checkpoint, or the name is taken.
        OSError: If a file cannot be read or written.
    """
    target = models_dir / name
    if not re.fullmatch(CHECKPOINT_NAME, name) or "/" in name:
        raise CheckpointError(f"{name!r} cannot be the name of a checkpoint")
    if target.exists():
        raise CheckpointError(f"there is a {name} in the models directory")
    if config is not None:
        configuration, state = _with_configuration(source, config)
    else:
        configuration, state = _hugging_face(source) if source.is_dir() else _nano_gpt(source)
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".convert-") as directory:
        draft = Path(directory) / name
        draft.mkdir()
        (draft / FILE).write_text(json.dumps(configuration, indent=2) + "\n")
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, draft / WEIGHTS, {"format": "pt"})
        found = _described(Path(directory), name)
        os.rename(draft, target)
    return found


class _Sizes:
    """A `Verdicts` that knows the sizes of a single checkpoint, which has not been tried yet."""

    def __init__(self, sizes: DecoderSizes) -> None:
        self._verdict = CheckpointVerdict(state="unchecked", reason="no worker has tried it yet", sizes=sizes)

    def of(self, sha256: str, kind: str) -> CheckpointVerdict:
        """Return the verdict on the only checkpoint."""
        return self._verdict


def _described(directory: Path, name: str) -> LoadableModel:
    """Describe the only checkpoint in a directory.

    Args:
        directory: A models directory.
        name: Name of the checkpoint.

    Returns:
        The description.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    models = ModelsDirectory(directory)
    found = models.describe(name)
    if found.kind == "causal-lm":
        found = ModelsDirectory(directory, _Sizes(decoder_sizes(models.open(name)))).describe(name)
    if found.problem is not None:
        raise CheckpointError(found.problem)
    return found


def _nano_gpt(source: Path) -> tuple[Configuration, State]:
    """Read a nanoGPT checkpoint; its linear layers hold transposed weights, and its gelu is the exact one."""
    content = _load(source)
    if not isinstance(content, Mapping) or not isinstance(content.get("model_args"), Mapping):
        message = f"{source} is no checkpoint of nanoGPT: it holds no model_args; that of another model needs --config"
        raise CheckpointError(message)
    arguments = content["model_args"]
    for name in ("vocab_size", *_SIZES.values()):
        if type(arguments.get(name)) is not int:
            raise CheckpointError(f"{source} is no checkpoint of nanoGPT: its model_args have no whole number {name}")
    if not isinstance(arguments.get("bias", True), bool):
        raise CheckpointError(f"{source} is no checkpoint of nanoGPT: bias in its model_args is neither true nor false")
    state = without_wrappers(_tensors(source, content.get("model")))
    output_layer = state.pop(_OUTPUT_LAYER, None)
    is_tied = output_layer is None or torch.equal(output_layer, state.get(_EMBEDDING, output_layer))
    configuration = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": is_tied,
        "vocab_size": arguments.get("vocab_size"),
        "bias": arguments.get("bias", "transformer.ln_f.bias" in state),
    } | {ours: arguments.get(theirs) for ours, theirs in _SIZES.items()}
    if output_layer is not None and not is_tied:
        if not configuration["bias"]:
            raise CheckpointError(f"{source} has an output layer that is not tied to the embedding, and no biases")
        state[_OUTPUT_LAYER] = output_layer
    kept = {name: tensor for name, tensor in state.items() if not _BUFFER.fullmatch(name)}
    return configuration, {n: tensor.T if _TRANSPOSED.fullmatch(n) else tensor for n, tensor in kept.items()}


def _hugging_face(source: Path) -> tuple[Configuration, State]:
    index = source / HUGGING_FACE_INDEX
    if (source / HUGGING_FACE_FILE).exists() or not index.exists():
        state = _tensors(source, _load(source / HUGGING_FACE_FILE))
    else:
        state = {}
        for name in _shards(index):
            state |= _tensors(source / name, _load(source / name))
    return read_configuration(source / FILE), _shared_once(without_wrappers(state))


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists, which are in the same directory.

    Args:
        index: The index, a JSON file.

    Returns:
        The names in ascending order.

    Raises:
        CheckpointError: If the index is unreadable or names other directories.
    """
    try:
        names = sorted({*json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        names = []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{index} holds no weight_map from tensors to files")
    return names


def _with_configuration(source: Path, config: Path) -> tuple[Configuration, State]:
    """Read tensors under any key and prefix that trainers use, and name them as transformers does."""
    content = _load(source)
    held = next((content[key] for key in STATES if isinstance(content, Mapping) and key in content), content)
    state = without_wrappers(_tensors(source, held))
    configuration = read_configuration(config)
    if not isinstance(configuration.get("model_type"), str):
        raise CheckpointError(f"{config} has no model_type")
    errors = []
    for candidate in _without_prefixes(state):
        shapes = {name: tuple(each.shape) for name, each in candidate.items() if not is_buffer(name, tuple(each.shape))}
        try:
            found = decoder_architecture(configuration, shapes)
        except InvalidProblemError as error:
            errors.append(str(error))
            continue
        own_names = found.parameters | found.tables
        return configuration, _shared_once({own_names.get(name, name): each for name, each in candidate.items()})
    raise CheckpointError(errors[0])


def _without_prefixes(state: State) -> Iterator[State]:
    """Yield the tensors as they are, then repeatedly without the first part of their names while all share it."""
    for _ in range(_MAX_PREFIXES):
        yield state
        first = {name.partition(".")[0] for name in state}
        if len(first) != 1 or not all("." in name for name in state):
            return
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}


def _shared_once(state: State) -> State:
    """Drop output layers that share the memory of another tensor: safetensors stores tied tensors once."""
    storages: dict[int, str] = {}
    kept = dict(state)
    for name, tensor in sorted(state.items(), key=lambda item: item[0] in OUTPUT_LAYERS):
        first = storages.setdefault(tensor.data_ptr(), name)
        if first != name and name in OUTPUT_LAYERS:
            del kept[name]
        elif first != name:
            kept[name] = tensor.clone()
    return kept


def _load(path: Path) -> Any:
    """Load tensors and plain values; a file that holds anything else is refused before any of it runs."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no file")
    try:
        # warnings would only announce the following refusal
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError:
        message = f"{path} is refused: it holds more than tensors and plain values{_classes(path)}, or is damaged"
        raise CheckpointError(message) from None
    except Exception as error:
        # torch passes on any exception of its parts
        raise CheckpointError(f"{path} is no checkpoint of PyTorch: {type(error).__name__}") from error


def _classes(path: Path) -> str:
    """Return the names of refused classes in a file, as far as they are known before anything is loaded."""
    try:
        with torch.serialization.safe_globals(_PLAIN):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - of a file that is no archive, or damaged
        return ""
    shown = ", ".join(sorted(names)[:_MAX_CLASSES_SHOWN])
    return f" ({shown:.200})" if names else ""


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
