"""What the models directory says of checkpoints, whole and damaged; nothing outside of it is read."""

import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, CheckpointVerdict, UnknownCheckpointError
from hessian_spectrum.checkpoints.directory import ModelsDirectory

Write = Callable[..., Path]
NUM_PARAMETERS = 256 * 8 + 16 * 8 + 2 * (12 * 64 + 13 * 8) + 16


@pytest.fixture
def models(tmp_path: Path) -> ModelsDirectory:
    (tmp_path / "models").mkdir()
    return ModelsDirectory(tmp_path / "models")


@pytest.fixture
def tiny(tmp_path: Path, models: ModelsDirectory, write_gpt2: Write) -> Path:
    return write_gpt2(tmp_path / "models" / "tiny")


def problem(models: ModelsDirectory, name: str = "tiny") -> str:
    found = models.describe(name)
    assert found.problem is not None
    assert found.kind is None
    assert found.sha256 is None
    assert models.describe_all() == [found]
    return found.problem


def reconfigure(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value != "absent"}))


def test_a_gpt2_is_described(models: ModelsDirectory, tiny: Path) -> None:
    found = models.describe("tiny")
    assert (found.kind, found.num_parameters, found.problem) == ("gpt2", NUM_PARAMETERS, None)
    assert (found.n_layer, found.n_head, found.n_embd, found.n_positions, found.vocab_size) == (2, 2, 8, 16, 256)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(tiny.iterdir())]
    assert found.sha256 == hashlib.sha256("".join(sums).encode()).hexdigest()
    fields = models.gpt2("tiny")
    assert (fields.bias, fields.activation, fields.checkpoint_sha256) == (True, "gelu-tanh", found.sha256)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"activation_function": "gelu"}, "activation", "gelu"),
        ({"activation_function": "gelu_pytorch_tanh"}, "activation", "gelu-tanh"),
        ({"n_positions": "absent", "n_ctx": 16}, "n_positions", 16),
        ({"n_inner": 32, "reorder_and_upcast_attn": True, "quantization_config": None}, "n_embd", 8),
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "n_embd", 8),
    ],
)
def test_options_are_understood(models: ModelsDirectory, tiny: Path, changes: Any, field: str, value: Any) -> None:
    reconfigure(tiny, **changes)
    assert getattr(models.gpt2("tiny"), field) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_norm_epsilon": 1e-6},
        {"n_inner": 16},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"tie_word_embeddings": False},
        {"activation_function": "silu"},
        {"activation_function": ["gelu"]},
        {"model_type": "llama"},
    ],
)
def test_other_options_are_named_and_left_to_the_other_kind(
    models: ModelsDirectory, tiny: Path, changes: dict[str, Any]
) -> None:
    reconfigure(tiny, **changes)
    with pytest.raises(CheckpointError, match=f"{next(iter(changes))} is .* use kind causal-lm"):
        models.gpt2("tiny")
    assert models.describe("tiny").kind == "causal-lm"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_layer": 3}, "h.2.attn.c_attn.bias is missing; .* and 7 more"),
        ({"n_layer": 1}, "h.1.attn.c_attn.bias is unknown"),
        ({"vocab_size": 257}, r"wte.weight has shape \[256, 8\], not \[257, 8\]"),
        ({"bias": False}, "attn.c_attn.bias is unknown"),
        ({"bias": 1}, "bias is 1, neither true nor false"),
        ({"n_head": 3}, "n_embd: 8 is no multiple of n_head = 3"),
        ({"n_head": "absent"}, "has no n_head"),
        ({"n_layer": 2.0}, "n_layer is 2.0, no positive whole number"),
        ({"n_layer": True}, "n_layer is true, no positive whole number"),
        ({"n_embd": 10**12}, "n_embd is 1000000000000, no positive"),
        ({"n_layer": 10**6}, "n_layer: "),
        ({"quantization_config": {"bits": 4}}, "has quantization_config"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "num_local_experts is 8"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "only decoders"),
        ({"model_type": 7}, "has no model_type"),
        ({"model_type": "opt", "vocab_size": 300}, "no embedding has the shape"),
        ({"model_type": "opt", "n_layer": 2**31 - 1}, "2147483647 layers, the weights have 2"),
    ],
)
def test_configurations_that_do_not_fit_are_explained(
    models: ModelsDirectory, tiny: Path, changes: dict[str, Any], said: str
) -> None:
    reconfigure(tiny, **changes)
    found = problem(models)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found)
    assert "/" not in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no JSON"),
        ('{"model_type": "gpt2"', "is no JSON"),
        ("[]", "holds no object"),
        ('{"n_layer": NaN}', "NaN is no number"),
        ('{"n_layer": 1, "n_layer": 2}', "a key is repeated"),
        ("[" * 100_000, "is no JSON"),
        ('{"a": ' + "9" * 10_000 + "}", "is no JSON"),
        ('{"a": "' + "x" * 2**20 + '"}', "more than 1,048,576 bytes"),
        ("\udcff", "is no JSON"),
    ],
    ids=["empty", "cut", "list", "nan", "repeated", "deep", "digits", "long", "bytes"],
)
def test_a_configuration_that_is_none_is_a_problem(models: ModelsDirectory, tiny: Path, text: str, said: str) -> None:
    (tiny / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert said in problem(models)


def change_weights(directory: Path, **changes: Any) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path) | changes
    save_file({name: array for name, array in weights.items() if array is not None}, path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transformer.ln_f.weight": None}, "ln_f.weight is missing"),
        ({"transformer.ln_f.weight": np.ones(9, np.float32)}, "ln_f.weight has shape [9], not [8]"),
        ({"transformer.ln_f.weight": np.ones(8, np.int64)}, "ln_f.weight holds I64"),
        ({"transformer.more": np.ones(8, np.float32)}, "more is unknown"),
        ({"lm_head.weight": np.ones((255, 8), np.float32)}, "lm_head.weight has shape"),
    ],
)
def test_weights_that_do_not_fit_are_named(models: ModelsDirectory, tiny: Path, changes: Any, said: str) -> None:
    change_weights(tiny, **changes)
    assert said in problem(models)


def test_what_older_files_hold_besides_is_left_out(models: ModelsDirectory, tiny: Path) -> None:
    weights = load_file(tiny / "model.safetensors")
    bare = {name.removeprefix("transformer."): array for name, array in weights.items()}
    masks = {f"h.{block}.attn.bias": np.ones((1, 1, 16, 16), np.uint8) for block in range(2)}
    save_file(bare | masks | {"lm_head.weight": bare["wte.weight"]}, tiny / "model.safetensors")
    assert models.describe("tiny").num_parameters == NUM_PARAMETERS


@pytest.mark.parametrize("num_bytes", [0, 7, 8, 100, 2000, -1, -4000])
def test_truncated_weights_are_a_problem(models: ModelsDirectory, tiny: Path, num_bytes: int) -> None:
    path = tiny / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    assert "is damaged or no safetensors file" in problem(models)


class Evil:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def header(num_bytes: int, content: dict[str, Any] | None = None) -> bytes:
    return struct.pack("<Q", num_bytes) + json.dumps(content or {}).encode()


HUGE = {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(2**63), "header would be too large"),
        (header(2**24 + 1), "header would be too large"),
        (header(2**20), "is damaged"),
        (header(len(json.dumps(HUGE)), HUGE) + bytes(4), "is damaged"),
        (b"\xff" * 64, "header would be too large"),
    ],
    ids=["endless", "large", "longer-than-file", "overflow", "noise"],
)
def test_absurd_headers_are_a_problem(models: ModelsDirectory, tiny: Path, content: bytes, said: str) -> None:
    (tiny / "model.safetensors").write_bytes(content)
    assert said in problem(models)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_dressed_as_weights_is_not_opened(
    models: ModelsDirectory, tiny: Path, tmp_path: Path, is_zip: bool
) -> None:
    weights, trace = tiny / "model.safetensors", tmp_path / "trace"
    content = pickle.dumps(Evil(trace))
    if is_zip:
        with zipfile.ZipFile(weights, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        weights.write_bytes(content)
    assert "convert it with `spectrum-server convert`" in problem(models)
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # it would have run


def test_files_of_pytorch_are_listed_and_not_opened(models: ModelsDirectory, tmp_path: Path, tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    (tmp_path / "models" / "ckpt.pt").write_bytes(b"anything")
    (tmp_path / "models" / "notes.txt").write_text("no checkpoint")
    (tmp_path / "models" / ".hidden").mkdir()
    assert [found.name for found in models.describe_all()] == ["ckpt.pt", "tiny"]
    for found in models.describe_all():
        assert found.problem == "a PyTorch checkpoint: convert it with `spectrum-server convert`"


@pytest.mark.parametrize("name", [b"with space", "té".encode(), b"x" * 200, b"\xff\xfe", b"-x"])
def test_names_that_no_request_can_hold_are_listed_with_the_reason(
    models: ModelsDirectory, tiny: Path, name: bytes
) -> None:
    os.rename(os.fsencode(tiny), os.fsencode(tiny.parent) + b"/" + name)
    (found,) = models.describe_all()
    assert found.problem is not None
    assert "its name does not match" in found.problem
    assert found.model_dump_json()


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../tiny", "tiny/..", "tiny/.", "/", "/etc", "a\\b", "x" * 129, "tiny\n", "tiny\0", "té", "-x"],
)
def test_names_that_lead_elsewhere_are_unknown(models: ModelsDirectory, tiny: Path, name: str) -> None:
    with pytest.raises(UnknownCheckpointError):
        models.open(name)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "module.module."]
)
def test_what_compilers_and_distributed_training_put_before_names_is_taken_off(
    models: ModelsDirectory, tiny: Path, prefix: str
) -> None:
    plain = models.describe("tiny")
    weights = load_file(tiny / "model.safetensors")
    renamed = {prefix + name.replace(".h.0.", ".h.0._orig_mod."): array for name, array in weights.items()}
    save_file(renamed, tiny / "model.safetensors")
    found = models.describe("tiny")
    assert found.sha256 != plain.sha256
    assert found.model_copy(update={"sha256": plain.sha256}) == plain
    save_file(renamed | {"transformer.ln_f.bias": weights["transformer.ln_f.bias"]}, tiny / "model.safetensors")
    assert "two tensors are called transformer.ln_f.bias" in problem(models)


def test_subfolders_of_a_hubs_cache_and_of_a_trainer_have_names(
    models: ModelsDirectory, tmp_path: Path, write_gpt2: Write
) -> None:
    directory = tmp_path / "models"
    snapshot = write_gpt2(directory / "models--org--tiny" / "snapshots" / "0a1b")
    for file in list(snapshot.iterdir()):
        blob = directory / "models--org--tiny" / "blobs" / file.name.split(".")[0]
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        file.symlink_to(Path("../../blobs") / blob.name)
    run = write_gpt2(directory / "run-7")
    write_gpt2(run / "checkpoint-500")
    (run / "runs").mkdir()
    (run / "loop").symlink_to(run)
    found = {model.name: model.problem for model in models.describe_all()}
    names = ["models--org--tiny/snapshots/0a1b", "run-7", "run-7/checkpoint-500", "run-7/loop"]
    assert found == dict.fromkeys(names)
    assert models.gpt2("models--org--tiny/snapshots/0a1b") == models.gpt2("run-7/checkpoint-500")
    for name in ("run-7/../run-7", "run-7//checkpoint-500", "run-7/.", "/run-7", "run-7/", "a/b/c/d/e"):
        with pytest.raises(UnknownCheckpointError):
            models.open(name)


class Found:
    """Verdicts of a test."""

    def __init__(self, **fields: Any) -> None:
        self._verdict = CheckpointVerdict.model_validate(fields)

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        return self._verdict if (len(sha256), kind) == (64, "gpt2") else None


def test_a_checkpoint_is_loadable_once_a_worker_has_tried_it(tmp_path: Path, write_gpt2: Write) -> None:
    write_gpt2(tmp_path / "tiny")
    found = ModelsDirectory(tmp_path).describe("tiny")
    assert (found.state, found.reason, found.problem) == ("unchecked", "no worker has tried it yet", None)
    models = ModelsDirectory(tmp_path, Found(state="loadable", fallback_reason="its code has no forward mode"))
    found = models.describe("tiny")
    assert (found.state, found.reason, found.problem) == ("loadable", "its code has no forward mode", None)
    models = ModelsDirectory(tmp_path, Found(state="refused", reason="it ends the process by SIGSEGV"))
    found = models.describe("tiny")
    assert (found.state, found.reason, found.problem) == ("refused", *["it ends the process by SIGSEGV"] * 2)
    with pytest.raises(CheckpointError, match="by SIGSEGV"):
        models.gpt2("tiny")


def test_sizes_under_unusual_names_are_unknown_until_a_worker_has_asked_the_library(
    models: ModelsDirectory, tiny: Path
) -> None:
    reconfigure(tiny, model_type="mpt", n_layer="absent", n_layers=2)
    found = models.describe("tiny")
    assert (found.state, found.kind, found.n_layer, found.num_parameters) == ("unchecked", "causal-lm", None, None)
    assert found.sha256 is not None
    with pytest.raises(CheckpointError, match="has no num_hidden_layers, and no worker has found it out yet"):
        models.causal_lm("tiny")


def test_links_must_stay_inside(models: ModelsDirectory, tiny: Path, tmp_path: Path, write_gpt2: Write) -> None:
    outside = write_gpt2(tmp_path / "outside")
    directory = tmp_path / "models"
    (directory / "inside").symlink_to(tiny)
    (directory / "out").symlink_to(outside)
    (directory / "circle").symlink_to("circle")
    part = write_gpt2(directory / "part")
    (part / "model.safetensors").unlink()
    (part / "model.safetensors").symlink_to(outside / "model.safetensors")
    problems = {found.name: found.problem for found in models.describe_all()}
    leaves = "leads out of the models directory"
    assert problems == {"inside": None, "out": leaves, "part": leaves, "tiny": None}
    for name in ("out", "part", "circle"):
        with pytest.raises(CheckpointError):
            models.gpt2(name)
    assert models.gpt2("inside") == models.gpt2("tiny")


def test_a_pipe_is_no_file(models: ModelsDirectory, tiny: Path) -> None:
    """Opening it would wait for ever."""
    (tiny / "model.safetensors").unlink()
    os.mkfifo(tiny / "model.safetensors")
    assert problem(models) == "has no file model.safetensors"


def shard(directory: Path) -> dict[str, str]:
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    index = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(weights)}
    for file in set(index.values()):
        save_file({name: weights[name] for name in weights if index[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index


def test_shards_are_one_checkpoint(models: ModelsDirectory, tiny: Path) -> None:
    whole = models.describe("tiny")
    shard(tiny)
    found = models.describe("tiny")
    assert found.model_copy(update={"sha256": whole.sha256}) == whole
    assert found.sha256 != whole.sha256


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ([], "holds no weight_map"),
        ({"weight_map": {"a": "../outside/model.safetensors"}}, "holds no weight_map"),
        ({"weight_map": {"a": 1}}, "holds no weight_map"),
        ({"weight_map": {"a": "model-00003.safetensors"}}, "has no file model-00003.safetensors"),
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, "holds other tensors than"),
    ],
)
def test_an_index_that_disagrees_is_a_problem(models: ModelsDirectory, tiny: Path, index: Any, said: str) -> None:
    shard(tiny)
    (tiny / "model.safetensors.index.json").write_text(json.dumps(index))
    assert said in problem(models)


def test_digests_are_taken_once_for_each_content(
    models: ModelsDirectory, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    real = hashlib.file_digest

    def noting(file: Any, name: str) -> Any:
        taken.append(Path(file.name).name)
        return real(file, name)

    monkeypatch.setattr("hessian_spectrum.checkpoints.file_cache.hashlib.file_digest", noting)
    first = models.describe("tiny").sha256
    assert models.describe("tiny").sha256 == first
    assert sorted(taken) == ["config.json", "model.safetensors"]
    change_weights(tiny, **{"transformer.ln_f.weight": np.zeros(8, np.float32)})
    assert models.describe("tiny").sha256 != first
    assert len(taken) == 3


def test_without_a_directory_there_is_nothing(tmp_path: Path) -> None:
    assert ModelsDirectory(None).describe_all() == []
    with pytest.raises(UnknownCheckpointError, match="no models directory"):
        ModelsDirectory(None).gpt2("tiny")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        ModelsDirectory(tmp_path / "none").describe_all()
