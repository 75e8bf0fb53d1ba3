"""Small jobs of every kind, about a second each, that a campaign runs again and again."""

from typing import Any

_MLP: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10], "activation": "tanh"},
    "data": {"kind": "digits", "num_samples": 128},
    "loss": "cross-entropy",
}
_GPT2: dict[str, Any] = {"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 8, "vocab_size": 256}
_TEXT: dict[str, Any] = {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8}
_PRETRAIN: dict[str, Any] = {"num_steps": 60, "batch_size": 2, "measure_every": [{"every": 60}]}
_LANCZOS: dict[str, Any] = {"kind": "lanczos", "num_steps": 12, "num_probes": 4, "num_points": 64}

_NUMBERS = [number / 1024 for number in range(2048)]

_KINDS: dict[str, dict[str, Any]] = {
    "exact": _MLP | {"method": {"kind": "exact"}, "train": {"num_steps": 400, "learning_rate": 0.05}},
    "lanczos": _MLP | {"method": _LANCZOS | {"num_probes": 12}},
    "lanczos-trained": _MLP | {"method": _LANCZOS, "train": {"num_steps": 1500, "learning_rate": 0.01}},
    "top-k": _MLP | {"method": {"kind": "top-k", "k": 4, "which": "both-ends"}},
    "trace": _MLP | {"method": {"kind": "trace", "estimator": "hutch++", "num_probes": 150}},
    "diagonal": _MLP | {"method": {"kind": "trace", "num_probes": 60, "diagonal": True}},
    "blocks": _MLP | {"blocks": ["layers.0.*", "layers.1.*"], "method": _LANCZOS},
    "text": {
        "kind": "spectrum",
        "model": _GPT2,
        "data": _TEXT,
        "loss": "cross-entropy",
        "method": {"kind": "top-k", "k": 2},
        "train": {"num_steps": 60, "learning_rate": 0.01, "optimizer": {"kind": "adamw"}},
    },
    "large-request": _MLP
    | {
        "model": {"kind": "mlp", "widths": [1, 4, 1]},
        "data": {"kind": "inline", "x": 4 * _NUMBERS, "y": 4 * _NUMBERS[::-1]},
        "loss": "mse",
        "method": {"kind": "exact"},
    },
    "comparison": {"kind": "hessian-vs-ggn", "models": [_GPT2], "data": _TEXT, "pretrain": _PRETRAIN},
}

NUM_SEEDS = 2


def requests() -> dict[str, dict[str, Any]]:
    """Every kind with several seeds, by name."""
    return {
        f"{name}-{seed}": fields | ({"seeds": [seed]} if name == "comparison" else {"seed": seed})
        for name, fields in _KINDS.items()
        for seed in range(NUM_SEEDS)
    }
