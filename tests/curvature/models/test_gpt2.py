"""Gpt2 against Hugging Face's GPT2LMHeadModel, and the sink against its definition."""

import sys
from collections.abc import Callable
from math import prod
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.models.gpt2 import AttentionSink, Gpt2
from hessian_spectrum.planning.size import gpt2_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
CPU = torch.device("cpu")
SHAPE = {"n_layer": 2, "n_head": 3, "n_embd": 12, "n_positions": 10, "vocab_size": 17}
SMALL = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
SMALL |= {"num_sequences": 1, "sequence_length": 1}


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        # transformers imports any torchvision it finds, and one built for another torch breaks it; text needs none
        patch.setitem(sys.modules, "torchvision", None)
        import transformers

        assert transformers.GPT2LMHeadModel  # loaded lazily, so now
        return transformers


def perturbed(model: Gpt2, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Parameters with nothing at its neutral value: biases and layer norms too."""
    generator = torch.Generator().manual_seed(seed)
    parameters = model.initial_parameters(generator, torch.float64, CPU)
    noise = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in parameters.items()}
    return {name: (tensor + 0.3 * noise[name]).to(dtype) for name, tensor in parameters.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_logits_are_those_of_hugging_face(
    dtype: torch.dtype, tolerance: float, seeded: Seeded, transformers: ModuleType
) -> None:
    model = Gpt2(**SHAPE)
    parameters = perturbed(model, 0, dtype)
    config = transformers.GPT2Config(**SHAPE, attn_implementation="eager", use_cache=False)
    oracle = transformers.GPT2LMHeadModel(config).to(dtype).eval()
    state = {f"transformer.{name.replace('blocks.', 'h.')}": tensor for name, tensor in parameters.items()}
    missing = oracle.load_state_dict(state | {"lm_head.weight": parameters["wte.weight"]}, strict=False)
    assert not missing.unexpected_keys
    assert not missing.missing_keys
    tokens = torch.randint(17, (3, 8), generator=seeded(1))
    with torch.no_grad():
        expected = oracle(tokens).logits
    assert float(expected.std()) > 0.5  # the comparison is about something
    assert_close(model(parameters, tokens), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_parameter_count_is_that_of_hugging_face_and_of_cost(transformers: ModuleType) -> None:
    oracle = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE))
    dim = ParameterLayout.of(Gpt2(**SHAPE).parameter_shapes).dim
    assert dim == sum(tensor.numel() for tensor in oracle.parameters())
    assert dim == gpt2_size(**SHAPE, num_sequences=1, sequence_length=1).num_parameters


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attention", [True, False])
def test_parameter_count_of_variants_is_that_of_cost(bias: bool, attention: bool) -> None:
    dim = ParameterLayout.of(Gpt2(**SHAPE, bias=bias, attention=attention).parameter_shapes).dim
    assert dim == gpt2_size(**SHAPE, num_sequences=1, sequence_length=1, bias=bias, attention=attention).num_parameters


def test_the_model_without_attention_has_as_many_weights() -> None:
    """Six MLP blocks more for twelve attention layers, appendix D.1.5: only biases and layer norms differ."""
    whole, without = (gpt2_size(**SMALL, attention=attention) for attention in (True, False))
    assert without.num_parameters == pytest.approx(whole.num_parameters, rel=2e-3)
    matrices = [
        sum(prod(shape) for shape in Gpt2(**SHAPE, attention=attention).parameter_shapes.values() if len(shape) == 2)
        for attention in (True, False)
    ]
    assert matrices[0] == matrices[1]


@pytest.mark.parametrize(("activation", "theirs"), [("gelu-tanh", "gelu_new"), ("gelu", "gelu"), ("relu", "relu")])
def test_activations_are_those_of_hugging_face(
    activation: str, theirs: str, seeded: Seeded, transformers: ModuleType
) -> None:
    model = Gpt2(**SHAPE, activation=activation)
    parameters = perturbed(model, 0)
    config = transformers.GPT2Config(**SHAPE, activation_function=theirs, attn_implementation="eager")
    oracle = transformers.GPT2LMHeadModel(config).double().eval()
    oracle.load_state_dict(
        {f"transformer.{n.replace('blocks.', 'h.')}": t for n, t in parameters.items()}, strict=False
    )
    oracle.tie_weights()
    tokens = torch.randint(17, (3, 8), generator=seeded(1))
    with torch.no_grad():
        expected = oracle(tokens).logits
    assert_close(model(parameters, tokens), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_without_biases_is_with_biases_of_zero(seeded: Seeded) -> None:
    model = Gpt2(**SHAPE, bias=False)
    parameters = perturbed(model, 0)
    full = {
        n: parameters.get(n, torch.zeros(s, dtype=torch.float64)) for n, s in Gpt2(**SHAPE).parameter_shapes.items()
    }
    tokens = torch.randint(17, (3, 8), generator=seeded(1))
    assert_close(model(parameters, tokens), Gpt2(**SHAPE)(full, tokens), rtol=0, atol=1e-13)


def test_without_attention_tokens_see_only_themselves_and_their_place(seeded: Seeded) -> None:
    model = Gpt2(**SHAPE, attention=False)
    parameters = perturbed(model, 0)
    tokens = torch.randint(17, (2, 9), generator=seeded(1))
    other = tokens.clone()
    other[:, 3] = (other[:, 3] + 5) % 17
    before, after = model(parameters, tokens), model(parameters, other)
    rest = [place for place in range(9) if place != 3]
    assert torch.equal(before[:, rest], after[:, rest])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_gpt2_small_has_124_million_parameters() -> None:
    small = gpt2_size(**SMALL)
    assert small.num_parameters == 124_439_808


def test_initialisation(seeded: Seeded) -> None:
    parameters = Gpt2(2, 2, 64, n_positions=32, vocab_size=100).initial_parameters(seeded(0), torch.float64, CPU)
    assert float(parameters["wte.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(parameters["blocks.1.mlp.c_fc.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(parameters["blocks.0.attn.c_proj.weight"].std()) == pytest.approx(0.01, rel=0.05)
    assert float(parameters["blocks.1.mlp.c_proj.weight"].std()) == pytest.approx(0.01, rel=0.05)
    for name, values in parameters.items():
        if name.endswith(".bias"):
            assert not values.any()
        elif "ln_" in name:
            assert (values == 1).all()


def test_a_token_does_not_see_the_future(seeded: Seeded) -> None:
    model = Gpt2(**SHAPE, sink=AttentionSink(2.0))
    parameters = perturbed(model, 0)
    tokens = torch.randint(17, (2, 9), generator=seeded(1))
    other = tokens.clone()
    other[:, 6:] = (other[:, 6:] + 5) % 17
    before, after = model(parameters, tokens), model(parameters, other)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6], after[:, 6])


def test_an_endless_sink_makes_every_token_read_the_first(seeded: Seeded) -> None:
    """With all heads on key 0, attention gives W_proj v_0 + b at every position: checked with one block, by hand."""
    model = Gpt2(1, 2, 8, n_positions=6, vocab_size=11, sink=AttentionSink(1e4, heads=(0, 1)))
    parameters = perturbed(model, 0)
    tokens = torch.randint(11, (1, 5), generator=seeded(1))
    hidden = parameters["wte.weight"][tokens] + parameters["wpe.weight"][:5]
    normed = torch.nn.functional.layer_norm(
        hidden, (8,), parameters["blocks.0.ln_1.weight"], parameters["blocks.0.ln_1.bias"]
    )
    values = (normed @ parameters["blocks.0.attn.c_attn.weight"] + parameters["blocks.0.attn.c_attn.bias"])[..., 16:]
    expected = values[:, :1] @ parameters["blocks.0.attn.c_proj.weight"] + parameters["blocks.0.attn.c_proj.bias"]
    assert_close(model._attention(parameters, 0, normed), expected.expand(1, 5, 8), rtol=1e-12, atol=1e-12)


def test_the_sink_acts_in_the_chosen_heads_and_blocks_only(seeded: Seeded) -> None:
    plain, sunk = Gpt2(**SHAPE), Gpt2(**SHAPE, sink=AttentionSink(1.5, heads=(1,), blocks=(1,)))
    parameters = perturbed(plain, 0)
    hidden = torch.randn(2, 6, 12, generator=seeded(1), dtype=torch.float64)
    assert torch.equal(plain._attention(parameters, 0, hidden), sunk._attention(parameters, 0, hidden))
    # through the projection's columns: head 1 of 3 owns rows 4 .. 7
    project = parameters["blocks.1.attn.c_proj.weight"]
    change = sunk._attention(parameters, 1, hidden) - plain._attention(parameters, 1, hidden)
    heads = change @ torch.linalg.inv(project)
    assert float(heads[..., 4:8].abs().max()) > 1e-3
    assert float(heads[..., :4].abs().max()) < 1e-10
    assert float(heads[..., 8:].abs().max()) < 1e-10


def test_a_sink_of_zero_changes_nothing_and_defaults_to_head_0_everywhere(seeded: Seeded) -> None:
    parameters = perturbed(Gpt2(**SHAPE), 0)
    tokens = torch.randint(17, (2, 7), generator=seeded(1))
    plain = Gpt2(**SHAPE)(parameters, tokens)
    assert torch.equal(Gpt2(**SHAPE, sink=AttentionSink(0.0))(parameters, tokens), plain)
    default = Gpt2(**SHAPE, sink=AttentionSink(1.0))(parameters, tokens)
    assert torch.equal(default, Gpt2(**SHAPE, sink=AttentionSink(1.0, (0,), (0, 1)))(parameters, tokens))
    assert not torch.equal(default, plain)


@pytest.mark.parametrize(
    "change",
    [
        {"n_layer": 0},
        {"n_head": 5},
        {"vocab_size": 0},
        {"sink": AttentionSink(1.0, heads=(3,))},
        {"sink": AttentionSink(1.0, blocks=(2,))},
        {"sink": AttentionSink(1.0, blocks=(-1,))},
        {"sink": AttentionSink(float("nan"))},
        {"activation": "sine"},
        {"attention": False, "n_layer": 3},
        {"attention": False, "sink": AttentionSink(1.0)},
    ],
)
def test_bad_models_are_errors(change: dict[str, int | AttentionSink]) -> None:
    with pytest.raises(InvalidProblemError):
        Gpt2(**(SHAPE | change))


@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(2, 11, dtype=torch.int64),
        torch.zeros(5, dtype=torch.int64),
        torch.zeros(2, 3),
        torch.full((2, 3), 17),
        torch.full((2, 3), -1),
        torch.zeros(2, 0, dtype=torch.int64),
    ],
    ids=["too-long", "axes", "real", "too-large", "negative", "empty"],
)
def test_bad_tokens_are_errors(tokens: Tensor) -> None:
    with pytest.raises(InvalidProblemError):
        Gpt2(**SHAPE).check_inputs(tokens)
