"""Checkpoints as models of the engine, beside what transformers itself makes of them."""

import json
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.api_schemas.checkpoints import CONTEXT, CheckpointError
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.worker.builders import Inputs, build_dataset, build_model, build_parameters
from hessian_spectrum.worker.checkpoints import CHANGED
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware
from tests.fixtures.longer import long

CPU = torch.device("cpu")
F32, F64 = torch.float32, torch.float64
TOKENS, TARGETS = [[1, 5, 3, 18, 7, 2], [4, 4, 0, 9, 11, 1]], [[5, 3, 18, 7, 2, 6], [4, 0, 9, -100, 1, 8]]
DATA = {"kind": "inline", "x": TOKENS, "y": TARGETS}

GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 19, "initializer_range": 0.3}
OTHERS = {
    "vocab_size": 19,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "llama": ("LlamaConfig", OTHERS | {"num_key_value_heads": 2}),
    "qwen2": ("Qwen2Config", OTHERS | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2Config",
        OTHERS | {"num_key_value_heads": 4, "use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1},
    ),
    "gpt-neox": ("GPTNeoXConfig", OTHERS),
}


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        # transformers imports any torchvision it finds, and one built for another torch breaks it; text needs none
        patch.setitem(sys.modules, "torchvision", None)
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        assert transformers.GPT2LMHeadModel  # loaded lazily, so now
        return transformers


@pytest.fixture(scope="module")
def saved(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Saves a randomly initialised model of transformers as `small`; the model, and its models directory."""

    def save(config: str, fields: dict[str, Any], dtype: torch.dtype = F32, **options: Any) -> tuple[Any, Path]:
        torch.manual_seed(0)
        configuration = getattr(transformers, config)(**fields, attn_implementation="eager", use_cache=False)
        model = transformers.AutoModelForCausalLM.from_config(configuration).to(dtype).eval()
        for parameter in model.parameters():  # nothing at its neutral value
            parameter.data += 0.1 * torch.randn(parameter.shape).to(dtype)
        directory = tmp_path_factory.mktemp("models")
        model.save_pretrained(directory / "small", **options)
        return model, directory

    return save


def request_of(models: ModelsDirectory, kind: str, **fields: Any) -> SpectrumRequest:
    body = {"kind": "spectrum", "data": DATA, "loss": "cross-entropy", "method": {"kind": "exact"}} | fields
    body["model"] = {"kind": kind, "checkpoint": "small"} | body.get("model", {})
    return SpectrumRequest.model_validate(body, context={CONTEXT: models})


def loaded(directory: Path, kind: str, dtype: torch.dtype) -> tuple[EmpiricalRisk, dict[str, Tensor]]:
    models = ModelsDirectory(directory)
    request = request_of(models, kind)
    model = build_model(request.model, Inputs(models))
    parameters = build_parameters(request.model, model, dtype=dtype, device=CPU, sources=Inputs(models))
    return EmpiricalRisk(model, CrossEntropy(), [build_dataset(request)]), parameters


def double_backward(loss_of: Callable[[], Tensor], leaves: list[Tensor], directions: list[Tensor]) -> list[Tensor]:
    gradient = torch.autograd.grad(loss_of(), leaves, create_graph=True)
    slope = torch.stack([(g * v).sum() for g, v in zip(gradient, directions, strict=True)]).sum()
    return list(torch.autograd.grad(slope, leaves))


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    difference, scale = (
        torch.cat([part.flatten().double() for part in parts])
        for parts in ([f - e for f, e in zip(found, expected, strict=True)], expected)
    )
    return float(difference.norm() / scale.norm())


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
def test_gpt2_is_that_of_transformers(saved: Callable[..., Any], activation: str) -> None:
    """On the same weights in float32: logits to 1e-5, Hessian product to 1e-4 of double backward through theirs."""
    theirs, directory = saved("GPT2Config", GPT2 | {"activation_function": activation})
    risk, parameters = loaded(directory, "gpt2", F32)
    tokens, targets = risk.batches[0].inputs, risk.batches[0].targets
    expected = theirs(tokens).logits.detach()
    assert float(expected.std()) > 0.5  # the comparison is about something
    assert_close(risk.model(parameters, tokens), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

    operator = HessianOperator(risk, parameters)
    vector = torch.randn(operator.dim, generator=torch.Generator().manual_seed(1))
    found = operator.layout.unflatten(operator.matvec(vector))
    directions = operator.layout.unflatten(vector)
    leaves = {
        name.replace("transformer.h.", "blocks.").removeprefix("transformer."): p
        for name, p in theirs.named_parameters()
    }
    assert leaves.keys() == found.keys()
    product = double_backward(
        lambda: torch.nn.functional.cross_entropy(theirs(tokens).logits.flatten(0, 1), targets.flatten()),
        list(leaves.values()),
        [directions[name] for name in leaves],
    )
    assert relative_error([found[name] for name in leaves], product) < 1e-4
    assert operator.fallback_reason is None


@pytest.mark.parametrize("family", FAMILIES)
def test_other_models_are_those_of_transformers(saved: Callable[..., Any], family: str) -> None:
    theirs, directory = saved(*FAMILIES[family])
    risk, parameters = loaded(directory, "causal-lm", F32)
    assert sum(map(prod, risk.model.parameter_shapes.values())) == sum(p.numel() for p in theirs.parameters())
    tokens = risk.batches[0].inputs
    expected = theirs(tokens).logits.detach()
    assert float(expected.std()) > 0.1
    assert_close(risk.model(parameters, tokens), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", [long("gpt2"), "llama", long("qwen2"), "qwen2-window", long("gpt-neox")])
def test_products_of_other_models_are_right_to_rounding(saved: Callable[..., Any], family: str) -> None:
    """Against double backward in float64; J v by two pull-backs, the third matrix as the difference of the others."""
    _, directory = saved(*FAMILIES[family])
    risk, parameters = loaded(directory, "causal-lm", F64)
    layout = ParameterLayout.of(risk.model.parameter_shapes)
    leaves = [parameters[name].requires_grad_() for name in layout.names]
    vector = torch.randn(layout.dim, generator=torch.Generator().manual_seed(1), dtype=F64)
    directions = list(layout.unflatten(vector).values())

    hessian = double_backward(lambda: risk.batch_share(0, parameters), leaves, directions)
    outputs = risk.features(0, parameters)
    cotangent = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, leaves, cotangent, create_graph=True)
    slope = torch.stack([(p * v).sum() for p, v in zip(pulled, directions, strict=True)]).sum()
    (pushed,) = torch.autograd.grad(slope, cotangent, retain_graph=True)  # J v
    weighted = risk.loss.hessian_product(outputs.detach(), risk.batches[0].targets, pushed) / risk.num_terms
    ggn = list(torch.autograd.grad(outputs, leaves, weighted))
    functional = [whole - part for whole, part in zip(hessian, ggn, strict=True)]

    for kind, expected in ((HessianOperator, hessian), (GgnOperator, ggn), (FunctionalOperator, functional)):
        operator = kind(risk, {name: tensor.detach() for name, tensor in parameters.items()})
        found = list(layout.unflatten(operator.matvec(vector)).values())
        assert relative_error(found, expected) < 1e-11, kind
        several = operator.matmat(torch.stack([vector, -2 * vector], 1))
        assert relative_error(list(layout.unflatten(several[:, 1] / -2).values()), expected) < 1e-11, kind
        assert operator.fallback_reason is None


def test_fields_that_are_about_something_else_change_nothing(saved: Callable[..., Any]) -> None:
    """A padding token, for one, which is among the tokens: reverse mode would drop the gradient of its row."""
    _, directory = saved("LlamaConfig", OTHERS | {"num_hidden_layers": 1, "hidden_size": 4})
    models, path = ModelsDirectory(directory), directory / "small" / "config.json"
    configuration, found = json.loads(path.read_text()), []
    for changes in ({}, {"pad_token_id": 3}, {"gradient_checkpointing": True}, {"num_labels": 10**7}):
        path.write_text(json.dumps(configuration | changes))
        request = request_of(models, "causal-lm", matrix="ggn", precision="float64")
        answer = run_spectrum_job(request, Hardware(CPU, 1, 2**32), ignore_progress, inputs=Inputs(models)).result
        found.append(torch.tensor(answer.eigenvalues))  # type: ignore[union-attr]
    assert all(torch.equal(each, found[0]) for each in found)
    assert found[0].min() > -1e-12 * found[0].max()


def test_a_model_that_looks_ahead_is_refused(saved: Callable[..., Any]) -> None:
    fields = OTHERS | {"is_decoder": True}
    _, directory = saved("BertConfig", fields)
    risk, parameters = loaded(directory, "causal-lm", F32)
    assert float(risk.value(parameters)) > 0
    path = directory / "small" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_decoder": False}))
    with pytest.raises(InvalidProblemError, match="sees the tokens that it is to predict"):
        loaded(directory, "causal-lm", F32)


def test_a_model_that_fails_says_so(saved: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, directory = saved(*FAMILIES["llama"])

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a tensor is too small")

    monkeypatch.setattr("hessian_spectrum.curvature.models.causal_lm.functional_call", fail)
    with pytest.raises(InvalidProblemError, match="fails on two tokens: RuntimeError: a tensor is too small"):
        loaded(directory, "causal-lm", F32)


def test_a_model_that_writes_in_place_is_recorded(saved: Callable[..., Any]) -> None:
    _, directory = saved(
        "FalconConfig",
        {
            "vocab_size": 19,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "initializer_range": 0.3,
        },
    )
    risk, parameters = loaded(directory, "causal-lm", F64)
    operator = HessianOperator(risk, parameters)
    dense, vectors = assemble(operator), torch.eye(operator.dim, 3, dtype=F64)
    assert_close(operator.matmat(vectors), dense[:, :3], rtol=0, atol=1e-11 * float(dense.abs().max()))
    assert operator.fallback_reason is None


def test_both_kinds_give_one_gpt2_the_same_spectrum(saved: Callable[..., Any]) -> None:
    _, directory = saved("GPT2Config", GPT2 | {"n_layer": 1, "n_embd": 4})
    models = ModelsDirectory(directory)
    results = []
    for kind in ("gpt2", "causal-lm"):
        request = request_of(models, kind)
        results.append(
            run_spectrum_job(request, Hardware(CPU, 1, 2**32), ignore_progress, inputs=Inputs(models)).result
        )
    ours, theirs = results
    assert_close(torch.tensor(ours.eigenvalues), torch.tensor(theirs.eigenvalues), rtol=1e-9, atol=1e-10)  # type: ignore[union-attr]
    assert ours.provenance.checkpoint == theirs.provenance.checkpoint
    assert ours.provenance.checkpoint is not None
    assert ours.provenance.checkpoint.sha256 == models.describe("small").sha256
    assert "transformers" in theirs.provenance.versions


def test_a_checkpoint_with_a_sink_is_trained_further(saved: Callable[..., Any]) -> None:
    _, directory = saved("GPT2Config", GPT2)
    models = ModelsDirectory(directory)
    method = {"kind": "lanczos", "num_steps": 3, "num_probes": 1, "num_points": 9}
    fields = {"method": method, "train": {"num_steps": 5, "learning_rate": 0.05}}
    losses = []
    for sink in (None, {"bias": 3.0}):
        request = request_of(models, "gpt2", model={"attention_sink": sink}, **fields)
        result = run_spectrum_job(request, Hardware(CPU, 1, 2**32), ignore_progress, inputs=Inputs(models)).result
        assert result.training is not None
        assert result.training.final_loss < result.training.initial_loss
        losses.append((result.training.final_loss, result.loss))
    (trained, at_matrix), (trained_too, with_sink) = losses
    assert trained == trained_too == at_matrix != with_sink  # the sink is put in after training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, F64])
def test_other_precisions_are_cast(saved: Callable[..., Any], dtype: torch.dtype) -> None:
    theirs, directory = saved("GPT2Config", GPT2, dtype)
    _, parameters = loaded(directory, "gpt2", F32)
    for name, tensor in theirs.transformer.named_parameters():
        assert torch.equal(
            parameters[name.replace("h.", "blocks.", 1) if name.startswith("h.") else name], tensor.float()
        )


def test_shards_hold_the_same(saved: Callable[..., Any]) -> None:
    _, whole = saved("GPT2Config", GPT2)
    _, parts = saved("GPT2Config", GPT2, max_shard_size="2KB")
    assert len(list((parts / "small").glob("*.safetensors"))) > 1
    expected, found = (loaded(directory, "gpt2", F32)[1] for directory in (whole, parts))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def change(directory: Path, name: str, values: Callable[[Tensor], Tensor]) -> None:
    path = directory / "small" / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {name: values(weights["transformer.wte.weight"])}, path, {"format": "pt"})


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_checkpoint_that_was_replaced_is_not_computed(saved: Callable[..., Any], file: str) -> None:
    _, directory = saved("GPT2Config", GPT2)
    models = ModelsDirectory(directory)
    request = request_of(models, "gpt2")
    if file == "config.json":
        path = directory / "small" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {"activation_function": "relu"}))
    else:
        change(directory, "transformer.wte.weight", lambda embedding: embedding + 1)
    with pytest.raises(CheckpointError, match=CHANGED):
        run_spectrum_job(request, Hardware(CPU, 1, 2**32), ignore_progress, inputs=Inputs(models))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("transformer.wte.weight", lambda embedding: embedding * torch.nan, "wte.weight holds NaN or infinity"),
        ("transformer.wte.weight", lambda embedding: embedding.double() * 1e300, "infinity in torch.float32"),
        ("lm_head.weight", lambda embedding: embedding + 1, "lm_head.weight is no copy of the embedding"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(
    saved: Callable[..., Any], name: str, values: Callable[[Tensor], Tensor], said: str
) -> None:
    _, directory = saved("GPT2Config", GPT2)
    change(directory, name, values)
    with pytest.raises(CheckpointError, match=said):
        loaded(directory, "gpt2", F32)


def test_a_copy_of_the_embedding_may_be_there(saved: Callable[..., Any]) -> None:
    _, directory = saved("GPT2Config", GPT2)
    change(directory, "lm_head.weight", torch.clone)
    for kind in ("gpt2", "causal-lm"):
        risk, parameters = loaded(directory, kind, F32)
        assert float(risk.value(parameters)) > 0
        assert "lm_head.weight" not in parameters


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "no-such-model"}, "no causal language model of model_type 'no-such-model'"),
        ({"model_type": "t5"}, "no causal language model of model_type 't5'"),
        ({"hidden_act": "no-such-activation"}, "transformers builds no model from config.json: KeyError"),
        ({"max_position_embeddings": 10**7, "model_type": "gpt_neo"}, "config.json"),
        ({"intermediate_size": 13}, "config.json and weights disagree"),
        ({"num_hidden_layers": 1}, "config.json and weights disagree"),
        ({"tie_word_embeddings": True}, "lm_head.weight is no copy"),
    ],
)
def test_what_transformers_cannot_load_is_explained(
    saved: Callable[..., Any], changes: dict[str, Any], said: str
) -> None:
    _, directory = saved(*FAMILIES["llama"])
    path = directory / "small" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    models = ModelsDirectory(directory)
    request = request_of(models, "causal-lm")
    with pytest.raises((InvalidProblemError, CheckpointError), match=said):
        run_spectrum_job(request, Hardware(CPU, 1, 2**32), ignore_progress, inputs=Inputs(models))
