"""Causal language models from a checkpoint."""

from functools import cached_property
from math import prod
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.checkpoints import CheckpointName, Sha256, with_checkpoint
from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.models.gpt2 import describe_as_resolved
from hessian_spectrum.api_schemas.models.kind import ModelKind, ModelMessage, Shapes
from hessian_spectrum.planning.size import Size, causal_lm_size


class CausalLm(ModelMessage):
    """A dense causal language model of transformers (Llama, Qwen, GPT-NeoX and others), from a checkpoint.

    What follows the checkpoint is filled in from it; where it is given, it must agree.
    """

    model_config = ConfigDict(json_schema_extra=describe_as_resolved)

    kind: Literal["causal-lm"]
    checkpoint: CheckpointName
    checkpoint_sha256: Sha256 = Field(
        description="The digest of the checkpoint: filled in by the server or, where given, compared with it."
    )
    n_layer: int = Field(ge=1, description="Number of transformer blocks in the model.")
    n_head: int = Field(ge=1, description="Number of attention heads per block.")
    n_embd: int = Field(ge=1, description="The width of the residual stream.")
    n_inner: int = Field(ge=1, description="The width of the hidden layers of the MLPs.")
    n_positions: int = Field(ge=1, description="Longest sequence in tokens that the model accepts.")
    vocab_size: int = Field(ge=1, description="Number of tokens in the vocabulary.")
    parameters: dict[str, list[Annotated[int, Field(ge=0)]]] = Field(
        min_length=1, description="The shape of each parameter, by its name in the checkpoint."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_checkpoint(cls, fields: Any, info: ValidationInfo) -> Any:
        if isinstance(fields, dict) and not isinstance(fields.get("checkpoint"), str):
            raise misfit("checkpoint", message="must be the name of a checkpoint; see /v1/models")
        return with_checkpoint(fields, info, lambda catalog, name: catalog.causal_lm(name))

    @cached_property
    def num_parameters(self) -> int:
        """Number of parameters of the whole model."""
        return sum(map(prod, self.parameters.values()))


def _parameter_shapes(model: CausalLm) -> Shapes:
    return {name: tuple(shape) for name, shape in model.parameters.items()}


def _size(model: CausalLm, num_samples: int, length: int) -> Size:
    return causal_lm_size(
        num_parameters=model.num_parameters,
        n_layer=model.n_layer,
        n_head=model.n_head,
        n_embd=model.n_embd,
        n_inner=model.n_inner,
        vocab_size=model.vocab_size,
        num_sequences=num_samples,
        sequence_length=length,
    )


KINDS = (
    ModelKind(
        CausalLm,
        _parameter_shapes,
        _size,
        example={
            "model": {"kind": "causal-lm", "checkpoint": "my-model"},
            "data": {"kind": "text", "text": "to be or not to be", "num_sequences": 2, "sequence_length": 4},
            "loss": "cross-entropy",
        },
        samples="tokens",
        position=5,
    ),
)
