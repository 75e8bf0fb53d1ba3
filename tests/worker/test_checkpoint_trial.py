"""Checkpoints as people have them: what a trial finds of them, and that the matrices are right then."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.api_schemas.checkpoints import CONTEXT, CheckpointVerdict
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.models.decoder_architecture import LONGEST_SEQUENCE, loaded_transformers
from hessian_spectrum.curvature.operators.matrices import GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.worker.builders import (
    Inputs,
    build_dataset,
    build_loss,
    build_model,
    build_parameters,
    checked_request,
)
from hessian_spectrum.worker.checkpoint_trial import tried
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware
from tests.fixtures.longer import long

CPU, F64 = torch.device("cpu"), torch.float64
TOKENS, TARGETS = [[1, 5, 3, 10], [4, 4, 0, 9]], [[5, 3, 10, 7], [4, 0, 9, -100]]

LAYERS = {"vocab_size": 11, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 11}
ROPE = LAYERS | {"intermediate_size": 6, "num_key_value_heads": 1, "head_dim": 2, "max_position_embeddings": 8}
BART = {"vocab_size": 11, "d_model": 4, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 6}
ODD: dict[str, tuple[str, dict[str, Any], int]] = {
    "gpt2-upcast": ("GPT2", GPT2 | {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True}, 8),
    "bloom": ("Bloom", {"vocab_size": 11, "hidden_size": 4, "n_layer": 1, "n_head": 2}, LONGEST_SEQUENCE),
    "mpt": ("Mpt", {"vocab_size": 11, "d_model": 4, "n_layers": 1, "n_heads": 2, "max_seq_len": 8}, 8),
    "gemma": ("Gemma", ROPE, 8),
    "bart": ("Bart", BART | {"max_position_embeddings": 8, "is_encoder_decoder": False, "encoder_layers": 3}, 8),
    "opt": ("OPT", LAYERS | {"ffn_dim": 6, "max_position_embeddings": 8, "word_embed_proj_dim": 6}, 8),
    "apertus": ("Apertus", ROPE, 8),
}

QUICK = {"bart", "bloom", "gemma", "gpt2-upcast"}
"""Families of the default suite: a part of an encoder-decoder, no forward mode, tied by default, float32 in places."""


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    found: ModuleType = loaded_transformers()
    found.utils.logging.disable_progress_bar()
    return found


@pytest.fixture(scope="module")
def saved(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """Saves a randomly initialised model of transformers as `odd`; the model, and its models directory."""

    def save(family: str, fields: dict[str, Any]) -> tuple[Any, Path]:
        torch.manual_seed(0)
        configuration = getattr(transformers, f"{family}Config")(**fields)
        model = transformers.AutoModelForCausalLM.from_config(configuration, attn_implementation="eager").eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
        directory = tmp_path_factory.mktemp("models")
        model.save_pretrained(directory / "odd")
        return model, directory

    return save


class Verdict:
    """That of one checkpoint."""

    def __init__(self, verdict: CheckpointVerdict) -> None:
        self.verdict = verdict

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        return self.verdict


def verdict_on(directory: Path) -> CheckpointVerdict:
    models = ModelsDirectory(directory)
    return tried(models, "odd", "causal-lm", sha256=models.open("odd").sha256)


def request_of(models: ModelsDirectory, **fields: Any) -> SpectrumRequest:
    body = {
        "kind": "spectrum",
        "model": {"kind": "causal-lm", "checkpoint": "odd"},
        "data": {"kind": "inline", "x": TOKENS, "y": TARGETS},
        "loss": "cross-entropy",
        "method": {"kind": "exact"},
    }
    return SpectrumRequest.model_validate(body | fields, context={CONTEXT: models})


def risk_of(directory: Path, verdict: CheckpointVerdict) -> tuple[EmpiricalRisk, dict[str, Tensor]]:
    models = ModelsDirectory(directory, Verdict(verdict))
    request = request_of(models)
    model = build_model(request.model, Inputs(models))
    parameters = build_parameters(request.model, model, dtype=F64, device=CPU, sources=Inputs(models))
    return EmpiricalRisk(model, build_loss(request), [build_dataset(request)]), parameters


def gradient_differences(risk: EmpiricalRisk, parameters: dict[str, Tensor], vector: Tensor) -> Tensor:
    """H v by central differences of the gradient."""
    layout = ParameterLayout.of(risk.model.parameter_shapes)
    step, point = 1e-5, layout.flatten(parameters)
    gradients = [risk.value_and_gradient(layout.unflatten(point + sign * step * vector))[1] for sign in (1, -1)]
    ahead, behind = (layout.flatten(gradient) for gradient in gradients)
    return (ahead - behind) / (2 * step)


def change_configuration(directory: Path, **changes: Any) -> None:
    path = directory / "odd" / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value != "absent"}))


@pytest.mark.parametrize("name", [name if name in QUICK else long(name) for name in ODD])
def test_odd_families_are_tried_and_computed(saved: Callable[..., Any], name: str) -> None:
    """Sizes as the library has them, its logits, and a Hessian that is the change of its gradient."""
    family, fields, n_positions = ODD[name]
    theirs, directory = saved(family, fields)
    verdict = verdict_on(directory)
    assert (verdict.state, verdict.reason) == ("loadable", None)
    described = ModelsDirectory(directory, Verdict(verdict)).describe("odd")
    assert described.state == "loadable"
    assert described.num_parameters == sum(parameter.numel() for parameter in theirs.parameters())
    sizes = (described.n_layer, described.n_head, described.n_embd, described.n_positions, described.vocab_size)
    assert sizes == (2 if name == "gpt2-upcast" else 1, 2, 4, n_positions, 11)

    risk, parameters = risk_of(directory, verdict)
    tokens = risk.batches[0].inputs
    expected = theirs.double()(tokens).logits.detach() if name != "gpt2-upcast" else theirs(tokens).logits.detach()
    assert_close(risk.model(parameters, tokens), expected.double(), rtol=0, atol=1e-5 * float(expected.abs().max()))
    fallback = verdict.fallback_method and Fallback(verdict.fallback_method, verdict.fallback_reason or "")
    operator = HessianOperator(risk, parameters, fallback=fallback)
    vector = torch.randn(operator.dim, generator=torch.Generator().manual_seed(1), dtype=F64)
    difference = operator.matvec(vector) - gradient_differences(risk, parameters, vector)
    assert difference.norm() < 1e-5 * operator.matvec(vector).norm()
    assert (verdict.fallback_method == "double-backward") is (name == "bloom")
    assert ("no forward mode: RuntimeError" in (operator.fallback_reason or "")) is (name == "bloom")


def test_a_job_of_a_model_without_forward_mode_says_how_it_was_computed(saved: Callable[..., Any]) -> None:
    _, directory = saved(*ODD["bloom"][:2])
    verdict = verdict_on(directory)
    models = ModelsDirectory(directory, Verdict(verdict))

    class Check:
        def checked(self, *_: Any, **options: Any) -> CheckpointVerdict:
            return verdict

    method = {"kind": "lanczos", "num_steps": 3, "num_probes": 2, "num_points": 9}
    sources = replace(Inputs(models), check=Check())  # type: ignore[arg-type]
    request, sources = checked_request(request_of(models, method=method), sources, memory_bytes=None, look=lambda: None)
    assert isinstance(request, SpectrumRequest)
    result = run_spectrum_job(request, Hardware(CPU, 1, 2**32), ignore_progress, inputs=sources).result
    assert "no forward mode" in (result.provenance.product_fallback or "")  # type: ignore[union-attr]


def test_a_copy_of_the_output_layer_is_no_parameter_though_config_leaves_the_tie_out(saved: Callable[..., Any]) -> None:
    """The library's default ties Gemma's; a guess took the copy for parameters of its own."""
    theirs, directory = saved("Gemma", ROPE)
    weights = load_file(directory / "odd" / "model.safetensors")
    copied = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(copied, directory / "odd" / "model.safetensors", {"format": "pt"})
    change_configuration(directory, tie_word_embeddings="absent")
    num_parameters = sum(parameter.numel() for parameter in theirs.parameters())
    unchecked = ModelsDirectory(directory)
    accepted = request_of(unchecked)
    assert unchecked.describe("odd").state == "unchecked"
    verdict = verdict_on(directory)
    assert verdict.sizes is not None
    assert verdict.sizes.left_out == ["lm_head.weight"]
    assert ModelsDirectory(directory, Verdict(verdict)).describe("odd").num_parameters == num_parameters

    class Check:
        def checked(self, *_: Any, **options: Any) -> CheckpointVerdict:
            return verdict

    # a job that was accepted before the trial is computed with what the trial found
    sources = replace(Inputs(unchecked), check=Check())  # type: ignore[arg-type]
    request, _ = checked_request(accepted, sources, memory_bytes=None, look=lambda: None)
    assert isinstance(request, SpectrumRequest)
    assert request.dim == num_parameters == accepted.dim - 44
    copied["lm_head.weight"] += 1
    save_file(copied, directory / "odd" / "model.safetensors", {"format": "pt"})
    verdict = verdict_on(directory)
    assert verdict.state == "refused"
    assert "lm_head.weight is no copy" in (verdict.reason or "")


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("bart", {"decoder_layers": 10**6}, "more than .* parameters, far more than there are weights"),
        ("mpt", {"n_layers": 10**6}, "more than .* parameters, far more than there are weights"),
        ("bloom", {"model_type": "no-such-model"}, "no causal language model of model_type 'no-such-model'$"),
        (
            "bloom",
            {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "evil.Model"}},
            "of model_type 'own', and the code that config.json names in auto_map is not run",
        ),
        ("mpt", {"d_model": 6}, "config.json"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_the_trial(
    saved: Callable[..., Any], family: str, changes: dict[str, Any], said: str
) -> None:
    _, directory = saved(*ODD[family][:2])
    change_configuration(directory, **changes)
    verdict = verdict_on(directory)
    assert verdict.state == "refused"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(verdict.reason)


def test_a_precision_in_which_a_model_fails_is_named(saved: Callable[..., Any]) -> None:
    """XGLM's mask is made of a number of float64 in float32; it is computed in float32 all the same."""
    _, directory = saved("XGLM", {"vocab_size": 11, "d_model": 4, "num_layers": 1, "attention_heads": 2, "ffn_dim": 6})
    verdict = verdict_on(directory)
    assert verdict.state == "loadable"
    assert (verdict.reason or "").startswith("in float64: the model fails on two tokens: RuntimeError")


def test_code_beside_a_family_that_the_library_has_is_left_alone(saved: Callable[..., Any]) -> None:
    _, directory = saved("Gemma", ROPE)
    (directory / "odd" / "evil.py").write_text("raise SystemExit(7)")
    change_configuration(directory, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})
    assert verdict_on(directory).state == "loadable"


def test_what_is_computed_without_gradients_is_a_constant_of_the_matrix(
    saved: Callable[..., Any], transformers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward mode passed tangents through the region, which reverse mode does not: the matrix was not symmetric.

    The expected one is that of differences of gradients with the region's value held where it is.
    """
    _, directory = saved("Gemma", ROPE)
    held: list[Tensor] = []

    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = held[0] if held else 1 + self.up_proj(x).square().mean(dim=-1, keepdim=True)
        inner: Tensor = self.act_fn(self.gate_proj(x)) * self.up_proj(x) * scale
        return self.down_proj(inner)  # type: ignore[no-any-return]

    monkeypatch.setattr(transformers.models.gemma.modeling_gemma.GemmaMLP, "forward", forward)
    risk, parameters = risk_of(directory, verdict_on(directory))
    layout = ParameterLayout.of(risk.model.parameter_shapes)
    matrices = {kind.matrix: assemble(kind(risk, parameters)) for kind in (HessianOperator, GgnOperator)}
    operator = HessianOperator(risk, parameters)
    left, right = torch.randn(2, layout.dim, generator=torch.Generator().manual_seed(2), dtype=F64)
    product = operator.matvec(right)
    assert operator.fallback_reason is None
    assert abs(left @ product - right @ operator.matvec(left)) < 1e-12 * product.norm() * left.norm()
    assert (matrices["hessian"] @ right - product).norm() < 1e-12 * product.norm()

    captured: list[Tensor] = []
    original = F.linear

    def capture(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        value = original(x, weight, bias)
        if not torch.is_grad_enabled() and not captured:
            captured.append(1 + value.square().mean(dim=-1, keepdim=True))
        return value

    with monkeypatch.context() as patch:
        patch.setattr(F, "linear", capture)
        risk.value_and_gradient(parameters)
    held.extend(captured)
    difference = product - gradient_differences(risk, parameters, right)
    assert difference.norm() < 1e-6 * product.norm()
    held.clear()
    moving = product - gradient_differences(risk, parameters, right)
    assert moving.norm() > 1e-2 * product.norm()  # the region matters


def test_the_command_prints_the_verdict_and_ends_with_its_parent(write_gpt2: Callable[..., Path]) -> None:
    """Run as a worker runs it: a process of its own, whose end is that of its standard input."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        write_gpt2(Path(directory) / "tiny")
        sha256 = ModelsDirectory(Path(directory)).describe("tiny").sha256
        command = [
            sys.executable,
            "-m",
            "hessian_spectrum.worker.checkpoint_trial",
            directory,
            "tiny",
            "gpt2",
            str(sha256),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            verdict = CheckpointVerdict.model_validate_json(process.stdout.read())
            assert process.wait(60) == 0
        assert verdict == CheckpointVerdict(state="loadable")
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120)
        assert ended.returncode != 0
