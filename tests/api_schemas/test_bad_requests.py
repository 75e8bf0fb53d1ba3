"""Each wrong request is refused with the field to change."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.closed_form import FIELD_PATHS, ClosedFormData, ClosedFormRequest, Descent
from hessian_spectrum.api_schemas.models import FAMILIES
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest

LINEAR = {"kind": "linear", "w": [1.0, 2.0], "v": [1.0, 0.5]}
ATTENTION = {"kind": "self-attention", "w_v": 1.0, "w_q": [1.0], "w_k": [1.0]}
DATA = {"x": [1.0, 2.0], "y": [0.0, 1.0]}

LEAKY = {"kind": "leaky-relu", "w": [1.0], "v": [1.0], "negative_slope": 0.1}
BIAS = {"kind": "linear-bias", "w": [1.0], "v": [1.0], "b": [1.0]}
MULTI_INPUT = {"kind": "multi-input", "w": [[1.0], [2.0]], "v": [[1.0], [2.0]]}
MULTI_OUTPUT = {"kind": "multi-output", "w": [[1.0], [2.0]], "v": [[1.0], [2.0]]}
TWO_LAYER = {"kind": "two-layer-linear", "W1": [[1.0, 2.0]] * 3, "W2": [[1.0, 2.0, 3.0]]}
ROWS = [[1.0, 2.0], [3.0, 4.0]]
DESCENT = {"learning_rate": 0.1, "num_steps": 3}

MLP = {"kind": "mlp", "widths": [3, 4, 2]}
GPT2 = {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256}
INLINE = {"kind": "inline", "x": [[1.0, 2.0, 3.0]], "y": [[0.0, 1.0]]}
TEXT = {"kind": "text", "name": "pydoc-topics", "num_sequences": 1, "sequence_length": 8}
TOKENS = {"kind": "artifact", "id": "0" * 64, "num_sequences": 1, "sequence_length": 8}
JOB: dict[str, Any] = {"kind": "spectrum", "model": MLP, "data": INLINE, "loss": "mse", "method": {"kind": "exact"}}

# of 30,002 parameters and of 400 million
WIDE: dict[str, Any] = {"model": MLP | {"widths": [3, 5000, 2]}}
HUGE: dict[str, Any] = {"model": MLP | {"widths": [3, 20_000, 20_000, 2]}}


def location(request: type[ClosedFormRequest] | type[SpectrumRequest], body: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        request.model_validate(body)
    return ".".join(str(part) for part in caught.value.errors()[0]["loc"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": {"kind": "cubic"}, "data": DATA}, "model"),
        ({"model": {"w": [1.0], "v": [1.0]}, "data": DATA}, "model"),
        ({"model": LINEAR | {"v": [1.0]}, "data": DATA}, "model.linear.v"),
        ({"model": LINEAR | {"w": []}, "data": DATA}, "model.linear.w"),
        ({"model": LINEAR | {"u": [1.0]}, "data": DATA}, "model.linear.u"),
        ({"model": LINEAR | {"w": [1.0, float("nan")]}, "data": DATA}, "model.linear.w.1"),
        ({"model": LINEAR | {"w": [1.0, float("inf")]}, "data": DATA}, "model.linear.w.1"),
        ({"model": LINEAR | {"w": [1.0, "2"]}, "data": DATA}, "model.linear.w.1"),
        ({"model": LINEAR | {"w": [1.0, True]}, "data": DATA}, "model.linear.w.1"),
        ({"model": LINEAR}, "data.x"),
        ({"model": LINEAR, "data": {"x": [1.0]}}, "data.y"),
        ({"model": LINEAR, "data": {"x": [], "y": []}}, "data.x.numbers"),
        ({"model": LINEAR, "data": {"x": [1.0], "y": [1.0, 2.0]}}, "data.y"),
        ({"model": LINEAR, "data": {"x": [[1.0]], "y": [[1.0]]}}, "data.x"),
        ({"model": LINEAR, "data": DATA, "eigenvectors": "some"}, "eigenvectors"),
        ({"model": ATTENTION, "data": DATA}, "data.x"),
        ({"model": ATTENTION | {"w_k": [1.0, 2.0]}, "data": DATA}, "model.self-attention.w_k"),
        ({"model": ATTENTION, "data": {"x": [[1.0, 2.0]], "y": [[1.0]]}}, "data.y"),
        ({"model": ATTENTION, "data": {"x": [[1.0, 2.0], [1.0]], "y": [[1.0], [1.0]]}}, "data.x.rows.1"),
        ({"model": {"kind": "quadratic", "matrix": [[1.0]] * 1001}}, "model.quadratic.matrix"),
        ({"model": ATTENTION, "data": {"x": [[1.0] * 2001], "y": [[1.0] * 2001]}}, "data.x"),
        ({"model": {"kind": "quadratic", "matrix": []}}, "model.quadratic.matrix"),
        ({"model": {"kind": "quadratic", "matrix": [[1.0]]}, "data": DATA}, "data"),
        ({"model": LEAKY | {"negative_slope": float("inf")}, "data": DATA}, "model.leaky-relu.negative_slope"),
        ({"model": BIAS | {"b": [1.0, 2.0]}, "data": DATA}, "model.linear-bias.b"),
        ({"model": MULTI_INPUT, "data": DATA}, "data.x"),
        ({"model": MULTI_INPUT, "data": {"x": [[1.0]], "y": [1.0]}}, "data.x"),
        ({"model": MULTI_INPUT, "data": {"x": ROWS, "y": ROWS}}, "data.y"),
        ({"model": MULTI_INPUT, "data": {"x": ROWS, "y": [1.0]}}, "data.y"),
        ({"model": MULTI_INPUT | {"v": [[1.0, 2.0]]}, "data": DATA}, "model.multi-input.v"),
        ({"model": MULTI_INPUT | {"w": [[1.0], [1.0, 2.0]]}, "data": DATA}, "model.multi-input.w.1"),
        ({"model": MULTI_INPUT | {"w": [[1.0]] * 1001, "v": [[1.0]] * 1001}, "data": DATA}, "model.multi-input.w"),
        ({"model": MULTI_OUTPUT, "data": {"x": ROWS, "y": ROWS}}, "data.x"),
        ({"model": MULTI_OUTPUT, "data": DATA}, "data.y"),
        ({"model": TWO_LAYER, "data": {"x": ROWS, "y": [1.0, 2.0]}}, "data.y"),
        ({"model": TWO_LAYER, "data": {"x": [[1.0]], "y": [[1.0]]}}, "data.x"),
        ({"model": TWO_LAYER | {"W2": [[1.0, 2.0]]}, "data": DATA}, "model.two-layer-linear.W2"),
        (
            {"model": TWO_LAYER | {"W1": [[1.0] * 45] * 60, "W2": [[1.0] * 60]}, "data": DATA},
            "model.two-layer-linear.W1",
        ),
        ({"model": ATTENTION | {"activation": "tanh"}, "data": DATA}, "model.self-attention.activation"),
        ({"model": LEAKY, "data": DATA, "descent": DESCENT}, "descent"),
        ({"model": LINEAR, "data": DATA, "descent": DESCENT | {"num_steps": 10_001}}, "descent.num_steps"),
        ({"model": LINEAR, "data": DATA, "descent": DESCENT | {"learning_rate": 0.0}}, "descent.learning_rate"),
        ({"model": LINEAR, "data": DATA, "descent": {"num_steps": 3}}, "descent.learning_rate"),
    ],
)
def test_closed_form_names_the_field(body: dict[str, Any], field: str) -> None:
    assert location(ClosedFormRequest, body) == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "sum"}, "kind"),
        ({"model": {"kind": "cnn"}}, "model"),
        ({"model": MLP | {"widths": [3]}}, "model.mlp.widths"),
        ({"model": MLP | {"widths": [3, 0, 2]}}, "model.mlp.widths.1"),
        ({"model": MLP | {"widths": [4, 4, 2]}}, "data.x"),
        ({"model": MLP | {"widths": [3, 4, 5]}}, "data.y"),
        ({"model": MLP | {"seed": -1}}, "model.mlp.seed"),
        ({"data": INLINE | {"y": [[0.0, 1.0], [1.0, 0.0]]}}, "data.inline.y"),
        ({"data": INLINE | {"x": [[1.0, 2.0, float("nan")]]}}, "data.inline.x.rows.0.2"),
        ({"data": {"kind": "digits"}}, "model.widths.0"),
        ({"data": {"kind": "digits"}, "model": MLP | {"widths": [64, 9]}}, "model.widths.1"),
        ({"data": {"kind": "digits", "num_samples": 1798}}, "data.digits.num_samples"),
        ({"data": {"kind": "gaussian", "num_samples": 4, "input_dim": 2, "output_dim": 2}}, "model.widths.0"),
        (
            {"data": {"kind": "gaussian", "num_samples": 0, "input_dim": 3, "output_dim": 2}},
            "data.gaussian.num_samples",
        ),
        ({"data": TEXT}, "data.kind"),
        ({"loss": "hinge"}, "loss.name"),
        ({"loss": "cross-entropy"}, "data.y"),
        ({"loss": "cross-entropy", "data": INLINE | {"y": [2.0]}}, "data.y"),
        ({"loss": "cross-entropy", "data": INLINE | {"y": [0.5]}}, "data.y"),
        ({"loss": "cross-entropy", "data": INLINE | {"y": [-100.0]}}, "data.y"),
        ({"model": GPT2, "data": TEXT}, "loss"),
        ({"model": GPT2 | {"n_head": 3}, "data": TEXT, "loss": "cross-entropy"}, "model.gpt2.n_embd"),
        ({"model": GPT2 | {"n_positions": 7}, "data": TEXT, "loss": "cross-entropy"}, "data.sequence_length"),
        ({"model": GPT2 | {"vocab_size": 255}, "data": TEXT, "loss": "cross-entropy"}, "model.vocab_size"),
        ({"model": GPT2, "data": {"kind": "digits"}, "loss": "cross-entropy"}, "data.kind"),
        (
            {"model": GPT2, "data": INLINE | {"x": [[1.0, 256.0]], "y": [[1.0, 2.0]]}, "loss": "cross-entropy"},
            "data.x",
        ),
        (
            {"model": GPT2 | {"attention_sink": {"bias": 1.0, "heads": [2]}}, "data": TEXT, "loss": "cross-entropy"},
            "model.gpt2.attention_sink.heads",
        ),
        ({"model": GPT2, "data": TEXT | {"text": "both"}, "loss": "cross-entropy"}, "data.text.text"),
        ({"model": GPT2, "data": TEXT | {"tokenizer": "gpt2"}, "loss": "cross-entropy"}, "model.vocab_size"),
        ({"model": GPT2, "data": TOKENS | {"sequence_length": 9}, "loss": "cross-entropy"}, "data.sequence_length"),
        ({"model": GPT2, "data": TOKENS | {"id": "0" * 63 + "/"}, "loss": "cross-entropy"}, "data.artifact.tokens.id"),
        ({"model": GPT2, "data": TOKENS, "loss": "mse"}, "loss"),
        ({"model": MLP, "data": TOKENS, "loss": "mse"}, "data.kind"),
        ({"model": GPT2, "data": TEXT | {"name": None}, "loss": "cross-entropy"}, "data.text.text"),
        ({"matrix": "jacobian"}, "matrix.name"),
        ({"matrix": {"kind": "hessian", "damping": 1.0}}, "matrix.object.damping"),
        ({"matrix": "fisher", "loss": "output", "model": MLP | {"widths": [3, 4, 1]}}, "matrix"),
        ({"method": {"kind": "power"}}, "method"),
        ({"method": {"kind": "lanczos", "num_steps": 1}}, "method.lanczos.num_steps"),
        ({"method": {"kind": "lanczos", "kappa": 1.0}}, "method.lanczos.kappa"),
        ({"method": {"kind": "lanczos", "margin": -0.1}}, "method.lanczos.margin"),
        ({"method": {"kind": "lanczos", "reorthogonalisation": "partial"}}, "method.lanczos.reorthogonalisation"),
        ({"method": {"kind": "exact", "eigenvectors": "all"}}, "method.exact.eigenvectors"),
        ({"method": {"kind": "exact", "eigenvectors": True}, **WIDE}, "method.eigenvectors"),
        ({"method": {"kind": "top-k"}}, "method.top-k.k"),
        ({"method": {"kind": "top-k", "k": 0}}, "method.top-k.k"),
        ({"method": {"kind": "top-k", "k": 27}}, "method.k"),
        ({"method": {"kind": "top-k", "k": 5}, "block": "layers.0.bias"}, "method.k"),
        ({"method": {"kind": "top-k", "k": 1, "which": "middle"}}, "method.top-k.which"),
        ({"method": {"kind": "top-k", "k": 1, "tolerance": 0.0}}, "method.top-k.tolerance"),
        ({"method": {"kind": "top-k", "k": 1, "max_products": 0}}, "method.top-k.max_products"),
        ({"method": {"kind": "top-k", "k": 3, "max_products": 2}}, "method.max_products"),
        ({"method": {"kind": "top-k", "k": 3, "target": 0.0}}, "method.target"),
        ({"method": {"kind": "top-k", "k": 3, "which": "magnitude", "target": 1.0}}, "method.target"),
        ({"method": {"kind": "top-k", "k": 3, "which": "nearest", "target": "inf"}}, "method.top-k.target"),
        ({"method": {"kind": "top-k", "k": 3, "which": "nearest", "target": 1e300 * 1e300}}, "method.top-k.target"),
        ({"method": {"kind": "top-k", "k": 3, "which": "nearest", "max_products": 12}}, "method.max_products"),
        ({"method": {"kind": "top-k", "k": 27, "which": "nearest"}}, "method.k"),
        ({"method": {"kind": "top-k", "k": 2}, **HUGE}, "method.eigenvectors"),
        ({"method": {"kind": "trace", "estimator": "hutch"}}, "method.trace.estimator"),
        ({"method": {"kind": "trace", "num_probes": 0}}, "method.trace.num_probes"),
        ({"method": {"kind": "trace", "num_probes": 3, "estimator": "xtrace"}}, "method.trace.num_probes"),
        ({"method": {"kind": "trace", "num_probes": 9, "tolerance": 0.1}}, "method.trace.tolerance"),
        ({"method": {"kind": "trace", "tolerance": 1.0}}, "method.trace.tolerance"),
        ({"method": {"kind": "trace", "max_products": 99}}, "method.trace.max_products"),
        ({"method": {"kind": "trace", "diagonal": 1}}, "method.trace.diagonal"),
        ({"method": {"kind": "trace", "diagonal": True}, **HUGE}, "method.diagonal"),
        ({"block": ""}, "block"),
        ({"block": "*" * 257}, "block"),
        ({"block": 0}, "block"),
        ({"block": "layers.2.*"}, "block"),
        ({"block": "Layers.0.weight"}, "block"),
        ({"block": "[z-a"}, "block"),
        ({"train": {"num_steps": 0, "learning_rate": 0.1}}, "train.num_steps"),
        ({"train": {"num_steps": 1, "learning_rate": float("inf")}}, "train.learning_rate"),
        ({"precision": "float16"}, "precision"),
        ({"tags": {"a": 1}}, "tags.a"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_spectrum_job_names_the_field(change: dict[str, Any], field: str) -> None:
    assert location(SpectrumRequest, JOB | change) == field


def test_the_unchanged_requests_are_valid() -> None:
    """Otherwise the cases above would prove nothing."""
    ClosedFormRequest.model_validate({"model": LINEAR, "data": DATA})
    ClosedFormRequest.model_validate({"model": ATTENTION, "data": {"x": [[1.0, 2.0]], "y": [[1.0, 2.0]]}})
    ClosedFormRequest.model_validate({"model": {"kind": "quadratic", "matrix": [[1.0]]}, "data": {}})
    for model in (LEAKY, BIAS):
        ClosedFormRequest.model_validate({"model": model, "data": DATA})
    ClosedFormRequest.model_validate({"model": MULTI_INPUT, "data": {"x": ROWS, "y": [1.0, 2.0]}})
    ClosedFormRequest.model_validate({"model": MULTI_OUTPUT, "data": {"x": [1.0, 2.0], "y": ROWS}})
    ClosedFormRequest.model_validate({"model": TWO_LAYER, "data": {"x": ROWS, "y": [[1.0], [2.0]]}})
    ClosedFormRequest.model_validate({"model": LINEAR, "data": DATA, "descent": DESCENT, "eigenvectors": "all"})
    SpectrumRequest.model_validate(JOB)
    SpectrumRequest.model_validate(JOB | {"model": GPT2, "data": TEXT, "loss": "cross-entropy"})


def test_exact_spectra_default_to_double_precision() -> None:
    assert SpectrumRequest.model_validate(JOB).product_precision == "float64"
    assert SpectrumRequest.model_validate(JOB | {"method": {"kind": "lanczos"}}).product_precision == "float32"
    assert SpectrumRequest.model_validate(JOB | {"precision": "float32"}).product_precision == "float32"
    for precision, of_vectors in (("float64", "float64"), ("tf32", "float32"), ("bfloat16", "float32")):
        request = SpectrumRequest.model_validate(JOB | {"precision": precision})
        assert (request.product_precision, request.vector_precision) == (precision, of_vectors)


def test_a_block_has_the_parameters_that_match() -> None:
    request = SpectrumRequest.model_validate(JOB | {"block": "layers.*.weight", "matrix": "ggn"})
    assert request.matrix_parameters == {"layers.0.weight": (4, 3), "layers.1.weight": (2, 4)}
    assert request.dim == 20
    assert SpectrumRequest.model_validate(JOB).dim == 26


def test_a_request_survives_its_way_through_the_store() -> None:
    request = SpectrumRequest.model_validate(JOB | {"tags": {"paper": "figure 2"}})
    assert SpectrumRequest.model_validate_json(request.model_dump_json(exclude_none=True)) == request


class Shaped:
    """What an array object shows of itself."""

    def __init__(self, *shape: int, kind: str = "f", itemsize: int = 8) -> None:
        self.shape, self.ndim = shape, len(shape)
        self.dtype = SimpleNamespace(kind=kind, itemsize=itemsize)

    def __len__(self) -> int:
        return self.shape[0]


def test_arrays_stand_for_lists_and_are_kept_as_they_are() -> None:
    w, x = Shaped(4), Shaped(7, kind="i", itemsize=2)
    model = {"kind": "linear", "w": w, "v": [1.0] * 4}
    request = ClosedFormRequest.model_validate({"model": model, "data": {"x": x, "y": Shaped(7, itemsize=4)}})
    assert request.model.w is w  # type: ignore[union-attr]
    assert request.data.x is x
    million = 10**6
    layers = {"kind": "two-layer-linear", "W1": Shaped(million, 10), "W2": Shaped(10, million)}
    ClosedFormRequest.model_validate({"model": layers, "data": {"x": Shaped(3, 10), "y": Shaped(3, 10)}})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"w": Shaped(4, 1)}, "model.linear.w"),
        ({"w": Shaped(4, kind="c", itemsize=16)}, "model.linear.w"),
        ({"w": Shaped(4, kind="O")}, "model.linear.w"),
        ({"w": Shaped(4, kind="f", itemsize=2)}, "model.linear.w"),
        ({"w": Shaped(0)}, "model.linear.w"),
        ({"w": Shaped(5)}, "model.linear.v"),
    ],
)
def test_arrays_that_are_no_numbers_are_named(change: dict[str, Any], field: str) -> None:
    model = {"kind": "linear", "w": [1.0] * 4, "v": [1.0] * 4} | change
    assert location(ClosedFormRequest, {"model": model, "data": DATA}) == field


def test_no_two_fields_have_the_same_name() -> None:
    """Uploads name them without their path."""
    names = [name for kind in (ClosedFormRequest, ClosedFormData, Descent) for name in kind.model_fields]
    names += {name for family in FAMILIES.values() for name in family.message.model_fields}
    assert len(names) == len(set(names))
    assert set(names) - set(FIELD_PATHS) == {"model", "data", "descent"}
