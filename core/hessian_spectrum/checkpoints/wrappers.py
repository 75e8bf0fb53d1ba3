"""Names of parameters without what torch.compile and distributed training put into them."""

import re
from collections.abc import Mapping
from typing import TypeVar

from hessian_spectrum.api_schemas.checkpoints import CheckpointError

T = TypeVar("T")

_ANYWHERE = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_LEADING = re.compile(r"^(module\.)+")


def without_wrappers(tensors: Mapping[str, T]) -> dict[str, T]:
    """The same by plain names: `_orig_mod.` is taken off wherever it stands, `module.` at the beginning.

    Raises:
        CheckpointError: If two names are the same then.
    """
    found: dict[str, T] = {}
    for name, tensor in tensors.items():
        plain = plain_name(name)
        if plain in found:
            raise CheckpointError(f"two tensors are called {plain:.100} without the prefix of {name:.100}")
        found[plain] = tensor
    return found


def plain_name(name: str) -> str:
    """The name of a parameter without wrappers."""
    return _LEADING.sub("", _ANYWHERE.sub("", name).removeprefix("."))
