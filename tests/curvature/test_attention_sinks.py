"""Sinks solved for a mean score, against attention weights that Hugging Face reports and against their limits."""

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.attention_sinks import SCORE_TOLERANCE, sink_scores, sink_with_mean_score
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.models.gpt2 import AttentionSink, Gpt2
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
MODEL = Gpt2(3, 2, 8, n_positions=12, vocab_size=11)


def point(seed: int) -> dict[str, Tensor]:
    """Ten times the initial scale: attention is far from uniform."""
    start = MODEL.initial_parameters(torch.Generator().manual_seed(seed), torch.float64, torch.device("cpu"))
    return {name: tensor * (10 if tensor.ndim == 2 else 1) for name, tensor in start.items()}


def batches(seed: int, length: int = 7) -> list[Dataset]:
    tokens = torch.randint(11, (5, length), generator=torch.Generator().manual_seed(seed))
    return list(Dataset(tokens, tokens).split(2))


def test_scores_are_the_attentions_of_hugging_face(seeded: Seeded) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchvision", None)
        import transformers

        config = transformers.GPT2Config(
            n_layer=3, n_head=2, n_embd=8, n_positions=12, vocab_size=11, attn_implementation="eager"
        )
        oracle = transformers.GPT2LMHeadModel(config).double().eval()
    parameters, data = point(0), batches(1)
    oracle.load_state_dict(
        {f"transformer.{n.replace('blocks.', 'h.')}": t for n, t in parameters.items()}, strict=False
    )
    with torch.no_grad():
        attentions = oracle(torch.cat([each.inputs for each in data]), output_attentions=True).attentions
    expected = [float(each[:, [1, 0], :, 0].mean()) for each in (attentions[2], attentions[0])]
    found = sink_scores(MODEL, parameters, data, sink=AttentionSink(0.0, heads=(1, 0), blocks=(2, 0)))
    assert found.blocks == (2, 0)
    assert found.by_block == pytest.approx(expected, rel=1e-12)
    assert found.mean == pytest.approx(sum(expected) / 2, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    target=st.floats(0.2, 0.999),
    heads=st.sampled_from([(0,), (1,), (0, 1)]),
    blocks=st.sampled_from([None, (0,), (1, 2)]),
)
def test_the_mean_score_is_reached(
    seed: int, target: float, heads: tuple[int, ...], blocks: tuple[int, ...] | None
) -> None:
    parameters, data = point(seed), batches(seed)
    sink = sink_with_mean_score(MODEL, parameters, data, sink=AttentionSink(0.0, heads, blocks), mean_score=target)
    assert (sink.heads, sink.blocks) == (heads, blocks)
    assert sink_scores(MODEL, parameters, data, sink=sink).mean == pytest.approx(target, abs=SCORE_TOLERANCE)


def test_a_score_that_is_there_already_needs_no_bias() -> None:
    parameters, data, sink = point(0), batches(0), AttentionSink(3.0)
    present = sink_scores(MODEL, parameters, data, sink=replace(sink, bias=0.0)).mean
    assert sink_with_mean_score(MODEL, parameters, data, sink=sink, mean_score=present).bias == 0


@pytest.mark.parametrize("target", [1 / 7 - 1e-3, 1.01, 0.0])
def test_a_score_that_cannot_be_reached_says_how_far_it_gets(target: float) -> None:
    """The first query has but one key, so that the mean over 7 queries is never below 1/7."""
    with pytest.raises(InvalidProblemError, match=r"attention_sink\.mean_score: no bias gives"):
        sink_with_mean_score(MODEL, point(0), batches(0), sink=AttentionSink(0.0), mean_score=target)


def test_single_tokens_attend_to_themselves_alone() -> None:
    with pytest.raises(InvalidProblemError, match="with -1024 it is 1"):
        sink_with_mean_score(MODEL, point(0), batches(0, length=1), sink=AttentionSink(0.0), mean_score=0.5)


def test_scores_do_not_depend_on_micro_batches() -> None:
    parameters, data = point(0), batches(3)
    whole = Dataset(torch.cat([each.inputs for each in data]), torch.cat([each.targets for each in data]))
    sink = AttentionSink(1.0)
    assert_close(
        torch.tensor(sink_scores(MODEL, parameters, data, sink=sink).by_block),
        torch.tensor(sink_scores(MODEL, parameters, [whole], sink=sink).by_block),
        rtol=1e-12,
        atol=0,
    )


def test_without_attention_there_are_no_scores() -> None:
    with pytest.raises(InvalidProblemError, match="without attention"):
        Gpt2(2, 2, 8, n_positions=12, vocab_size=11, attention=False).first_token_scores(
            {}, torch.zeros(1, 2, dtype=torch.int64)
        )
