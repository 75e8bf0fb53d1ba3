"""Descriptions of errors and bodies in the OpenAPI document, and its examples."""

import json
from typing import Any

from pydantic import BaseModel

from hessian_spectrum.api_schemas.closed_form import FIELD_PATHS
from hessian_spectrum.api_schemas.problem import PROBLEM_MEDIA_TYPE
from hessian_spectrum.service.request_parsing import JSON, MEDIA_TYPES

Responses = dict[int | str, dict[str, Any]]

BINARY = {"type": "string", "format": "binary"}
"""Schema of a binary file."""


ACCEPT = {
    "name": "accept",
    "in": "header",
    "required": False,
    "description": f"The format of the response: {', '.join(MEDIA_TYPES.values())}, or several of them with weights. "
    "Without the header the format is the first one.",
    "schema": {"type": "string", "examples": list(MEDIA_TYPES.values())},
}
"""The parameter `Accept`, for `openapi_extra` of a route whose response depends on the header."""


def problem_documentation(**descriptions: str) -> Responses:
    """Return responses that are problems, one for each keyword such as `status_422="The request is invalid."`."""
    return {
        int(name.removeprefix("status_")): {
            "description": description,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for name, description in descriptions.items()
    }


UNAVAILABLE = problem_documentation(status_503="Redis does not answer or is full, or the results directory is missing.")
INVALID = problem_documentation(status_422="The request is invalid; `errors` names the fields.")
INVALID_BODY = {
    **INVALID,
    **problem_documentation(
        status_408="The body takes too long.", status_413="The body is too large.", status_415="The body is not JSON."
    ),
}
UNKNOWN = {**INVALID, **problem_documentation(status_404="There is no such job.")}

EVENTS: dict[str, Any] = {
    "description": "Events until the job has ended.",
    "content": {
        "text/event-stream": {
            "example": 'id: 1767225600000-0\ndata: {"id": "...", "state": "running", ...}\nretry: 1000\n\n',
        }
    },
}
"""The response of an event stream."""

Examples = dict[str, Any]


def body_documentation(kind: type[BaseModel], examples: Examples) -> dict[str, Any]:
    """`openapi_extra` of a route that parses its JSON body itself; `app.py` passes the message to the document."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


def batch_documentation(
    kind: type[BaseModel], name: str, examples: Examples, *, ndjson: str | None = None
) -> dict[str, Any]:
    """`openapi_extra` of a route that takes many bodies of another route as a list, and perhaps as lines.

    Args:
        kind: The class of the batch.
        name: The name of its list.
        examples: Examples of the other route, which are put into one batch.
        ndjson: The media type of the lines.

    Returns:
        The documentation of the body.
    """
    values = [each["value"] for each in examples.values()]
    described = body_documentation(kind, {"all": {"summary": "All examples together", "value": {name: values}}})
    if ndjson is not None:
        lines = "".join(json.dumps(value) + "\n" for value in values)
        described["requestBody"]["content"][ndjson] = {"schema": {"type": "string"}, "example": lines}
    return described


def formats_documentation() -> dict[str, Any]:
    """Return the content of a response that has several formats, beside the schema of its JSON."""
    return {media_type: {} if media_type == JSON else {"schema": BINARY} for media_type in MEDIA_TYPES.values()}


def upload_documentation() -> dict[str, Any]:
    """Return the entries of `requestBody.content` for arrays that come as files."""
    part = {"description": "A .npy file or JSON."}
    fields = {"request": {"description": "The request or a part of it as JSON."}} | dict.fromkeys(FIELD_PATHS, part)
    archive = BINARY | {"description": f"An npz archive with the members {', '.join(FIELD_PATHS)}."}
    return {
        "application/x-npz": {"schema": archive},
        "multipart/form-data": {"schema": {"type": "object", "properties": fields}},
    }


_TOKEN_FILE = {
    "schema": BINARY,
    "examples": {
        "to-be": {
            "summary": "The bytes of `to be or not to be` as tokens, two bytes each",
            "value": "".join(f"{character}\0" for character in "to be or not to be"),
        }
    },
}

_ARRAYS_HEADER = json.dumps(
    {
        "x": {"dtype": "U8", "shape": [4, 2], "data_offsets": [0, 8]},
        "y": {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]},
    },
    separators=(",", ":"),
)

_WEIGHTS_HEADER = json.dumps(
    {
        "layers.0.weight": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]},
        "layers.1.weight": {"dtype": "U8", "shape": [1, 2], "data_offsets": [4, 6]},
    },
    separators=(",", ":"),
).ljust(256)  # the length of the header must be bytes of ASCII

_ARRAYS_FILE = {
    "schema": BINARY,
    "examples": {
        "xor": {
            "summary": "A safetensors file with the arrays x (four rows of two numbers) and y (their classes)",
            "value": f"{chr(len(_ARRAYS_HEADER))}{chr(0) * 7}{_ARRAYS_HEADER}"
            + "".join(map(chr, (0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0))),
        },
        "weights": {
            "summary": "A safetensors file with the weights of a network of widths 2, 2 and 1 without biases",
            "value": f"{chr(0)}{chr(1)}{chr(0) * 6}{_WEIGHTS_HEADER}" + "".join(map(chr, (1, 2, 3, 1, 1, 2))),
        },
    },
}

XOR_ID = "3e37cdf9089f1cd0abecb7a4ebbe52ed1b1123b47b4321a5659119668e5f17ee"
"""The id of these arrays once they are uploaded."""

ARTIFACT_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": _TOKEN_FILE,
            "application/x-npy": {"schema": _TOKEN_FILE["schema"]},
            "application/x-safetensors": _ARRAYS_FILE,
            "application/x-npz": {"schema": _ARRAYS_FILE["schema"]},
            "application/vnd.pytorch.pt2": {"schema": _ARRAYS_FILE["schema"]},
            "application/onnx": {"schema": _ARRAYS_FILE["schema"]},
        },
    }
}
"""`openapi_extra` of the upload of tokens, arrays and networks."""

WEIGHTS_ID = "e538e053b2281cec2f1bb6fadc13dd10bae2403efc6c7dcc3a66f77e558cc5b1"
"""The id of these weights once they are uploaded."""

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
    "leaky-relu": {
        "summary": "Two-layer network with any negative slope",
        "value": {
            "model": {"kind": "leaky-relu", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75], "negative_slope": 0.1},
            "data": {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]},
        },
    },
    "linear-bias": {
        "summary": "Two-layer linear network with a bias, and the eigenvectors of its outliers",
        "value": {
            "model": {"kind": "linear-bias", "w": [0.5, -1.0, 0.2], "v": [1.0, 0.5, -0.7], "b": [0.1, 0.0, -0.3]},
            "data": {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]},
            "eigenvectors": "outliers",
        },
    },
    "multi-input": {
        "summary": "One two-layer linear network per input, summed",
        "value": {
            "model": {"kind": "multi-input", "w": [[0.5, -1.0], [0.2, 0.3]], "v": [[1.0, 0.5], [-0.7, 0.4]]},
            "data": {"x": [[1.0, -0.5], [2.0, 0.3], [-0.4, 0.6]], "y": [0.8, -0.1, 1.5]},
        },
    },
    "multi-output": {
        "summary": "One two-layer linear network per output",
        "value": {
            "model": {"kind": "multi-output", "w": [[0.5, -1.0], [0.2, 0.3]], "v": [[1.0, 0.5], [-0.7, 0.4]]},
            "data": {"x": [1.0, -0.5, 2.0], "y": [[0.8, 0.2], [-0.1, 0.0], [1.5, -1.0]]},
        },
    },
    "two-layer-linear": {
        "summary": "Two-layer linear network with several inputs and outputs",
        "value": {
            "model": {
                "kind": "two-layer-linear",
                "W1": [[0.5, -1.0], [0.2, 0.3], [0.9, 0.1]],
                "W2": [[1.0, 0.5, -0.3], [-0.7, 0.4, 0.2]],
            },
            "data": {"x": [[1.0, -0.5], [2.0, 0.3], [-0.4, 0.6]], "y": [[0.8, 0.2], [-0.1, 0.0], [1.5, -1.0]]},
        },
    },
    "descent": {
        "summary": "The spectrum of a linear network along gradient descent",
        "value": {
            "model": {"kind": "linear", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]},
            "data": {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]},
            "descent": {"learning_rate": 0.1, "num_steps": 20},
        },
    },
    "quadratic": {
        "summary": "Quadratic form",
        "value": {"model": {"kind": "quadratic", "matrix": [[4.0, 4.0], [4.0, 16.0]]}},
    },
}

RANDOM_MATRIX_EXAMPLES: Examples = {
    "hessian-linear": {
        "summary": "The Hessian model of a linear network at three points",
        "value": {"law": "hessian", "activation": "linear", "energy": 0.3, "ratio": 0.5, "points": [-1.0, 0.0, 1.0]},
    },
    "hessian-relu": {
        "summary": "The Hessian model of a ReLU network beside a sample",
        "value": {
            "law": "hessian",
            "activation": "relu",
            "energy": 0.3,
            "ratio": 0.5,
            "sample": {"size": 500, "seed": 1},
        },
    },
    "wigner": {
        "summary": "The semicircle and its transforms",
        "value": {"law": "wigner", "variance": 1.0, "transform_points": [[0.5, 1.0], [3.0, 0.0]]},
    },
    "wishart": {
        "summary": "The Marchenko-Pastur law with an atom at 0",
        "value": {"law": "wishart", "variance": 1.0, "ratio": 2.0, "num_points": 64},
    },
    "free-sum": {
        "summary": "The law of the sum of two free matrices",
        "value": {
            "law": "free-sum",
            "laws": [{"law": "wigner", "variance": 0.1}, {"law": "wishart", "ratio": 4.0}],
            "num_points": 64,
        },
    },
    "index-curve": {
        "summary": "Share of negative eigenvalues against the energy",
        "value": {"law": "index-curve", "activation": "relu", "ratios": [0.25, 0.5, 0.75, 1.5], "num_points": 65},
    },
}

_TRAINED_DIGITS = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 16, 10]},
    "data": {"kind": "digits", "num_samples": 256},
    "loss": "cross-entropy",
    "train": {"num_steps": 50, "learning_rate": 0.5, "batch_size": 64},
}

_TINY_GPT2 = {"kind": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 256}

JOB_EXAMPLES: Examples = {
    "digits-density": {
        "summary": "Density of a digits classifier by Lanczos",
        "value": _TRAINED_DIGITS | {"method": {"kind": "lanczos", "num_steps": 40, "num_probes": 4}},
    },
    "digits-exact": {
        "summary": "Every eigenvalue of a digits classifier",
        "value": _TRAINED_DIGITS | {"method": {"kind": "exact"}},
    },
    "ggn-top-k": {
        "summary": "Largest eigenpairs of the first layer's Gauss-Newton matrix; their vectors are in npz",
        "value": _TRAINED_DIGITS
        | {"matrix": "ggn", "block": "layers.0.*", "method": {"kind": "top-k", "k": 10, "which": "largest"}},
    },
    "trace": {
        "summary": "Trace of the Hessian, to two per cent",
        "value": _TRAINED_DIGITS | {"method": {"kind": "trace", "estimator": "hutch++", "tolerance": 0.02}},
    },
    "eigenvectors": {
        "summary": "Every eigenpair of the functional Hessian of the last layer",
        "value": _TRAINED_DIGITS
        | {
            "matrix": "functional",
            "block": "layers.1.*",
            "method": {"kind": "exact", "eigenvectors": True},
            "precision": "float64",
        },
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
    "series": {
        "summary": "Sharpness at a step of training, at the weights of the example of /v1/artifacts",
        "value": {
            "kind": "series",
            "name": "run-7",
            "points": [{"step": 100, "parameters": {"kind": "artifact", "id": WEIGHTS_ID}, "learning_rate": 0.1}],
            "model": {"kind": "mlp", "widths": [2, 2, 1], "bias": False},
            "data": {"kind": "gaussian", "num_samples": 16, "input_dim": 2, "output_dim": 1},
            "loss": "mse",
            "method": {"kind": "top-k", "k": 2},
        },
    },
    "sweep": {
        "summary": "Sharpness over seeds and learning rates",
        "value": {
            "kind": "sweep",
            "base": {
                "kind": "spectrum",
                "model": {"kind": "mlp", "widths": [8, 16, 4], "activation": "tanh"},
                "data": {"kind": "gaussian", "num_samples": 64, "input_dim": 8, "output_dim": 4},
                "loss": "mse",
                "method": {"kind": "top-k", "k": 1},
                "train": {"num_steps": 50, "learning_rate": 0.1},
            },
            "over": {"model.seed": [1, 2, 3], "train.learning_rate": [0.1, 0.2, 0.4]},
        },
    },
    "uploaded-data": {
        "summary": "Every eigenvalue on data that were uploaded: the arrays of the example of /v1/artifacts",
        "value": {
            "kind": "spectrum",
            "model": {"kind": "mlp", "widths": [2, 4, 2], "activation": "tanh"},
            "data": {"kind": "artifact", "id": XOR_ID},
            "loss": "cross-entropy",
            "method": {"kind": "exact"},
        },
    },
    "hessian-vs-ggn": {
        "summary": "Top eigenvalues of Hessian and Gauss-Newton matrix while a small GPT-2 is pretrained, and without "
        "attention",
        "value": {
            "kind": "hessian-vs-ggn",
            "models": [_TINY_GPT2, _TINY_GPT2 | {"attention": False}],
            "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 4, "sequence_length": 16},
            "pretrain": {"num_steps": 20, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 5},
        },
    },
}
