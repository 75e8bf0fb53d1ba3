"""What the OpenAPI document says of errors, and the examples that it shows."""

from typing import Any

from api_schemas.problem import PROBLEM_MEDIA_TYPE, Problem

Responses = dict[int | str, dict[str, Any]]


def problem_documentation(**descriptions: str) -> Responses:
    """Documented problems: keyword `status_422="when"` for each."""
    return {
        int(name.removeprefix("status_")): {
            "description": description,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
        }
        for name, description in descriptions.items()
    }


UNAVAILABLE = problem_documentation(status_503="Redis does not answer")
INVALID = problem_documentation(status_422="the request is invalid; `errors` names the fields")
INVALID_BODY = {
    **INVALID,
    **problem_documentation(status_413="the body is too large", status_415="the body is not JSON"),
}
UNKNOWN = {**INVALID, **problem_documentation(status_404="no such job")}

Examples = dict[str, Any]

CLOSED_FORM_EXAMPLES: Examples = {
    "linear": {
        "summary": "Two-layer linear network",
        "value": {
            "model": {"kind": "linear", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]},
            "data": {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]},
        },
    },
    "relu": {
        "summary": "Two-layer ReLU network",
        "value": {
            "model": {"kind": "relu", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]},
            "data": {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]},
        },
    },
    "self-attention": {
        "summary": "Self-attention with an attention sink",
        "value": {
            "model": {"kind": "self-attention", "w_v": 0.9, "w_q": [0.3, -0.2], "w_k": [0.1, 0.4], "sink_bias": 2.0},
            "data": {"x": [[1.0, -0.5, 2.0], [0.3, 0.7, -1.0]], "y": [[0.8, 0.1, 1.5], [0.0, 0.5, -0.5]]},
        },
    },
    "quadratic": {
        "summary": "Quadratic form",
        "value": {"model": {"kind": "quadratic", "matrix": [[4.0, 4.0], [4.0, 16.0]]}},
    },
}

_TRAINED_DIGITS = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 16, 10]},
    "data": {"kind": "digits", "num_samples": 256},
    "loss": "cross-entropy",
    "train": {"num_steps": 50, "learning_rate": 0.5, "batch_size": 64},
}

JOB_EXAMPLES: Examples = {
    "digits-density": {
        "summary": "Density of a digits classifier by Lanczos",
        "value": _TRAINED_DIGITS | {"method": {"kind": "lanczos", "num_steps": 40, "num_probes": 4}},
    },
    "digits-exact": {
        "summary": "Every eigenvalue of a digits classifier",
        "value": _TRAINED_DIGITS | {"method": {"kind": "exact"}},
    },
    "gpt2-density": {
        "summary": "Density of a small GPT-2 with an attention sink",
        "value": {
            "kind": "spectrum",
            "model": {
                "kind": "gpt2",
                "n_layer": 1,
                "n_head": 2,
                "n_embd": 16,
                "n_positions": 32,
                "vocab_size": 256,
                "attention_sink": {"bias": 2.0},
            },
            "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 4, "sequence_length": 32},
            "loss": "cross-entropy",
            "method": {"kind": "lanczos", "num_steps": 20, "num_probes": 2},
        },
    },
}
