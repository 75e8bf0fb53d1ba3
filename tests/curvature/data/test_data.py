"""Data sets: shapes, scales, determinism, and errors that say what is wrong."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.testing import assert_close

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.data.text import named_text, text_windows, tokenize
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]


def test_digits_are_real_images_with_their_labels(seeded: Seeded) -> None:
    data = digits(1797, seeded(0))
    pixels, labels = load_digits(return_X_y=True)
    known = {(row.tobytes(), int(label)) for row, label in zip(pixels / 16, labels, strict=True)}
    found = {(x.numpy().tobytes(), int(y)) for x, y in zip(data.inputs, data.targets, strict=True)}
    assert found == known
    assert data.targets.dtype == torch.int64
    assert float(data.inputs.max()) == 1


def test_fewer_digits_are_the_first_of_the_same_shuffle(seeded: Seeded) -> None:
    many, few = digits(100, seeded(5)), digits(10, seeded(5))
    assert torch.equal(many.inputs[:10], few.inputs)
    assert torch.equal(many.targets[:10], few.targets)
    assert not torch.equal(digits(10, seeded(6)).inputs, few.inputs)


@pytest.mark.parametrize("num_samples", [0, -1, 1798])
def test_digits_that_do_not_exist(num_samples: int, seeded: Seeded) -> None:
    with pytest.raises(InvalidProblemError, match="1797"):
        digits(num_samples, seeded(0))


def test_gaussian_teachers_answer_the_same_inputs(seeded: Seeded) -> None:
    linear, relu, none = (
        gaussian(50, 4, 3, teacher=teacher, noise=0.0, generator=seeded(0)) for teacher in ("linear", "relu", "none")
    )
    assert torch.equal(linear.inputs, relu.inputs)
    assert torch.equal(linear.inputs, none.inputs)
    assert_close(linear.targets.relu(), relu.targets)
    assert not none.targets.any()
    solution = torch.linalg.lstsq(linear.inputs, linear.targets).solution
    assert_close(linear.inputs @ solution, linear.targets)


def test_data_sets_share_a_teacher_and_nothing_else(seeded: Seeded) -> None:
    options = {"teacher": "linear", "noise": 0.0, "teacher_scale": 3.0}
    own = gaussian(50, 4, 3, generator=seeded(7), **options)
    first, second = (
        gaussian(50, 4, 3, generator=seeded(seed), teacher_generator=seeded(7), **options) for seed in (7, 8)
    )
    assert torch.equal(first.inputs, own.inputs)
    assert torch.equal(first.targets, own.targets)
    maps = [torch.linalg.lstsq(data.inputs, data.targets).solution for data in (first, second)]
    assert_close(maps[0], maps[1])
    assert not torch.isclose(first.inputs, second.inputs).any()
    unit = gaussian(50, 4, 3, generator=seeded(7), teacher="linear", noise=0.0)
    assert_close(first.targets, 3 * unit.targets)


def test_gaussian_scales(seeded: Seeded) -> None:
    data = gaussian(20_000, 5, 2, teacher="linear", noise=0.1, generator=seeded(0))
    exact = gaussian(20_000, 5, 2, teacher="linear", noise=0.0, generator=seeded(0))
    assert_close(data.inputs.T @ data.inputs / 20_000, torch.eye(5, dtype=torch.float64), rtol=0, atol=0.05)
    assert float((data.targets - exact.targets).std()) == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize(
    ("counts", "teacher", "noise"),
    [((0, 1, 1), "linear", 0.1), ((1, 0, 1), "linear", 0.1), ((1, 1, 1), "cubic", 0.1), ((1, 1, 1), "linear", -0.1)],
)
def test_bad_gaussian_options(counts: tuple[int, int, int], teacher: str, noise: float, seeded: Seeded) -> None:
    with pytest.raises(InvalidProblemError):
        gaussian(*counts, teacher=teacher, noise=noise, generator=seeded(0))


def test_windows_are_pieces_of_the_text_with_the_next_token_as_target(seeded: Seeded) -> None:
    text = named_text("pydoc-topics")
    assert len(text) > 100_000
    data = text_windows(tokenize(text, "bytes"), num_sequences=20, sequence_length=32, generator=seeded(0))
    encoded = text.encode()
    assert data.inputs.shape == data.targets.shape == (20, 32)
    for inputs, targets in zip(data.inputs, data.targets, strict=True):
        assert bytes([*inputs.tolist(), int(targets[-1])]) in encoded
        assert torch.equal(inputs[1:], targets[:-1])


def test_windows_reach_both_ends(seeded: Seeded) -> None:
    data = text_windows(np.arange(6), num_sequences=200, sequence_length=4, generator=seeded(0))
    assert set(data.inputs[:, 0].tolist()) == {0, 1}
    whole = text_windows(np.arange(6), num_sequences=1, sequence_length=5, generator=seeded(0))
    assert whole.inputs.tolist() == [[0, 1, 2, 3, 4]]
    assert whole.targets.tolist() == [[1, 2, 3, 4, 5]]


def test_windows_follow_the_generator(seeded: Seeded) -> None:
    tokens = tokenize(named_text("pydoc-topics"), "bytes")
    first, again, other = (
        text_windows(tokens, num_sequences=3, sequence_length=8, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)


def test_bytes_are_utf_8() -> None:
    assert tokenize("aé€", "bytes").tolist() == [0x61, 0xC3, 0xA9, 0xE2, 0x82, 0xAC]


def test_bad_texts_are_errors(seeded: Seeded) -> None:
    with pytest.raises(InvalidProblemError, match=r"has 5 tokens, .* needs 6"):
        text_windows(np.arange(5), num_sequences=1, sequence_length=5, generator=seeded(0))
    with pytest.raises(InvalidProblemError, match="0 tokens"):
        text_windows(tokenize("", "bytes"), num_sequences=1, sequence_length=5, generator=seeded(0))
    with pytest.raises(InvalidProblemError, match="at least 1"):
        text_windows(np.arange(5), num_sequences=1, sequence_length=0, generator=seeded(0))
    with pytest.raises(InvalidProblemError, match="pydoc-topics"):
        named_text("bible")
    with pytest.raises(InvalidProblemError, match="bytes"):
        tokenize("a", "bpe")
    with pytest.raises(InvalidProblemError, match="surrogates"):
        tokenize("\ud800", "bytes")


def test_split_keeps_every_sample_once() -> None:
    data = Dataset(torch.arange(10.0).unsqueeze(1), torch.arange(10))
    for size in (1, 3, 10, 11, None):
        pieces = data.split(size)
        assert torch.equal(torch.cat([piece.inputs for piece in pieces]), data.inputs)
        assert torch.equal(torch.cat([piece.targets for piece in pieces]), data.targets)
    assert [len(piece) for piece in data.split(4)] == [4, 4, 2]
    with pytest.raises(InvalidProblemError):
        data.split(0)


def test_casting_leaves_labels_alone() -> None:
    data = Dataset(torch.zeros(2, 3), torch.tensor([1, 2])).to(torch.float64, torch.device("cpu"))
    assert (data.inputs.dtype, data.targets.dtype) == (torch.float64, torch.int64)


def test_bad_datasets_are_errors() -> None:
    for inputs, targets in (
        (torch.zeros(2, 3), torch.zeros(3)),
        (torch.zeros(0, 3), torch.zeros(0)),
        (torch.tensor(1.0), torch.tensor(1.0)),
    ):
        with pytest.raises(InvalidProblemError):
            Dataset(inputs, targets)


def test_digits_take_no_global_randomness(seeded: Seeded) -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    first = digits(10, seeded(0))
    torch.manual_seed(1)
    assert torch.equal(first.inputs, digits(10, seeded(0)).inputs)
