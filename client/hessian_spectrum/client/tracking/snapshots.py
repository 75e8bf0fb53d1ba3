"""Copies of a module's parameters, and the program that they belong to. Importing this module loads torch."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from hessian_spectrum.client.arrays import NamedArray, named_array
from hessian_spectrum.client.module_export import ModuleExportError, module_program


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module within those that `torch.compile`, data parallelism or Lightning Fabric put around it."""
    while True:
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        elif type(module).__name__ == "_FabricModule":
            module = module.module  # type: ignore[assignment]
        else:
            return module


def tracked_program(module: nn.Module, example_inputs: Any, trainable: str | None) -> bytes:
    """Export a module without the values of its parameters, as it is in eval mode.

    Buffers that training changes, such as the running statistics of batch norm, become parameters that are not
    differentiated, so that each point can have its own.

    Args:
        module: The module, which is the same afterwards.
        example_inputs: Its arguments for at least two samples.
        trainable: Glob on the names of the parameters to differentiate; None: those that require gradients.

    Returns:
        The content of the .pt2 file.

    Raises:
        ModuleExportError: If the module cannot be exported.
    """
    device = next(module.parameters()).device
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    moved = tuple(each.to(device) if isinstance(each, Tensor) else each for each in inputs)
    with _in_eval_mode(module), _with_trainable(module, trainable), _with_buffers_as_parameters(module):
        return module_program(module, moved, with_parameters=False)


def check_present(module: nn.Module) -> None:
    """Check that there are parameters to copy.

    Raises:
        ModuleExportError: If there are no parameters, or one has no numbers.
    """
    if next(module.parameters(), None) is None:
        raise ModuleExportError("the module has no parameters")
    for name, parameter in module.named_parameters():
        if parameter.is_meta or nn.parameter.is_lazy(parameter):
            raise ModuleExportError(
                f"the parameter {name} has no numbers yet (it is {'lazy' if not parameter.is_meta else 'on meta'}): "
                "track the module after its parameters are initialised"
            )


def changing_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers of real numbers that belong to the module's state, by name; masks with infinity do not."""
    found = {}
    for prefix, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            is_stored = name not in part._non_persistent_buffers_set
            if is_stored and buffer.is_floating_point() and bool(buffer.isfinite().all()):
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


@dataclass
class Snapshot:
    """A copy of all parameters.

    Attributes:
        tensors: The copies by name, in the memory of the host.
        events: What has to happen on GPUs before the copies are complete.
    """

    tensors: dict[str, Tensor]
    events: list[torch.cuda.Event] = field(default_factory=list)

    def arrays(self) -> dict[str, NamedArray]:
        """Return the numbers once they are complete, without another copy."""
        for event in self.events:
            event.synchronize()
        return {name: named_array(name, tensor) for name, tensor in self.tensors.items()}


class Snapshots:
    """Takes copies of a module's parameters into memory that is reused.

    From a GPU the copies go to pinned memory while the loop continues: operations that change the parameters later are
    in the same stream, after the copies.

    Args:
        module: The module.
        memory_bytes: Limit on the size of all copies; two are always allowed.
    """

    def __init__(self, module: nn.Module, memory_bytes: int) -> None:
        self._module = module
        self._buffer_names = list(changing_buffers(module))
        self._shapes = {name: tensor.shape for name, tensor in self._tensors().items()}
        self.num_bytes = sum(each.numel() * each.element_size() for each in self._tensors().values())
        self._num_allowed = max(2, memory_bytes // max(1, self.num_bytes))
        self._num_taken = 0
        self._free: list[dict[str, Tensor]] = []
        self._lock = threading.Lock()

    def take(self) -> Snapshot | None:
        """Copy the parameters as they are now.

        Returns:
            The copy; None if too many are still in use.

        Raises:
            ModuleExportError: If names or shapes of the parameters have changed since the beginning.
        """
        tensors = self._tensors()
        if {name: tensor.shape for name, tensor in tensors.items()} != self._shapes:
            raise ModuleExportError("names or shapes of the parameters have changed")
        with self._lock:
            if self._num_taken >= self._num_allowed:
                return None
            self._num_taken += 1
            copies = self._free.pop() if self._free else None
        try:
            return _copied(tensors, {} if copies is None else copies)
        except BaseException:
            with self._lock:
                self._num_taken -= 1
            raise

    def give_back(self, snapshot: Snapshot) -> None:
        """Allow the memory of a snapshot to be used again."""
        with self._lock:
            self._num_taken -= 1
            self._free.append(snapshot.tensors)

    def _tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = dict(self._module.named_parameters())
        named |= {name: self._module.get_buffer(name) for name in self._buffer_names}
        return named


def _copied(tensors: Mapping[str, Tensor], copies: dict[str, Tensor]) -> Snapshot:
    devices = set()
    with torch.no_grad():
        for name, tensor in tensors.items():
            is_cuda = tensor.device.type == "cuda"
            copy = copies.get(name)
            if copy is None or copy.dtype != tensor.dtype:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=is_cuda)
                copies[name] = copy
            copy.copy_(tensor.detach(), non_blocking=is_cuda)
            if is_cuda:
                devices.add(tensor.device)
    return Snapshot(copies, [torch.cuda.current_stream(device).record_event() for device in devices])


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _with_trainable(module: nn.Module, trainable: str | None) -> Iterator[None]:
    """Let exactly the parameters that match a glob require gradients."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    if trainable is not None:
        names = [name for name, _ in module.named_parameters() if fnmatchcase(name, trainable)]
        if not names:
            raise ModuleExportError(f"no parameter matches the glob {trainable!r}")
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


@contextmanager
def _with_buffers_as_parameters(module: nn.Module) -> Iterator[None]:
    before = [(part._buffers, dict(part._buffers)) for part in module.modules()]
    added = []
    for path, buffer in changing_buffers(module).items():
        prefix, _, name = path.rpartition(".")
        owner = module.get_submodule(prefix)
        del owner._buffers[name]
        owner._parameters[name] = nn.Parameter(buffer, requires_grad=False)
        added.append((owner, name))
    try:
        yield
    finally:
        for owner, name in added:
            del owner._parameters[name]
        for buffers, contents in before:
            buffers.clear()
            buffers.update(contents)
