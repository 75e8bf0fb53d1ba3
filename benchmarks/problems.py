"""The problems that are measured: a model at its initial parameters, data, cross-entropy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from benchmarks.networks import VisionTransformer, exported, resnet18
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.digits import digits
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.base import Model, ParameterLayout, Parameters
from hessian_spectrum.curvature.models.conv import Conv
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}

Content = tuple[Model, Dataset, nn.Module | None]


@dataclass(frozen=True, eq=False)
class Problem:
    """The risk L(theta), mean cross-entropy over all targets in one batch, and a point."""

    name: str
    model: Model
    data: Dataset
    parameters: Parameters
    module: nn.Module | None = None  # of a network of users: what the model was exported from

    @cached_property
    def risk(self) -> EmpiricalRisk:
        """L."""
        return self.risk_of(None)

    def risk_of(self, micro_batch_size: int | None) -> EmpiricalRisk:
        """L, its data in micro-batches of so many samples; None: in one."""
        return EmpiricalRisk(self.model, CrossEntropy(), self.data.split(micro_batch_size))

    @property
    def layout(self) -> ParameterLayout:
        """Of the flat vector."""
        return ParameterLayout.of(self.model.parameter_shapes)

    @property
    def device(self) -> torch.device:
        """Where parameters and data live."""
        return next(iter(self.parameters.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(iter(self.parameters.values())).dtype

    def vectors(self, num_vectors: int) -> Tensor:
        """Standard normal rows (num_vectors, P), the same in every process; the first does not depend on the number."""
        generator = torch.Generator().manual_seed(1)
        rows = [torch.randn(self.layout.dim, generator=generator, dtype=self.dtype) for _ in range(num_vectors)]
        return torch.stack(rows).to(self.device)


@dataclass(frozen=True)
class Recipe:
    """How to make a problem, and a small one that goes through the same code."""

    content: Callable[[torch.Generator, str], Content]  # the string is the type of the device
    warm_up: str


def _gpt2(shape: tuple[int, int, int, int, int], sequences: dict[str, tuple[int, int]]) -> Recipe:
    """A GPT-2 on random tokens, each the target of those before it; sequences (n, T) by type of device."""

    def content(generator: torch.Generator, device_type: str) -> Content:
        n_layer, n_head, n_embd, n_positions, vocab_size = shape
        model = Gpt2(n_layer, n_head, n_embd, n_positions=n_positions, vocab_size=vocab_size)
        num_sequences, length = sequences.get(device_type, sequences["cpu"])
        tokens = torch.randint(model.vocab_size, (num_sequences, length + 1), generator=generator)
        return model, Dataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()), None

    return Recipe(content, "tiny-gpt")


def _classification(widths: tuple[int, ...], num_samples: int) -> Recipe:
    """An mlp on normal inputs of random classes."""

    def content(generator: torch.Generator, device_type: str) -> Content:
        inputs = torch.randn(num_samples, widths[0], generator=generator, dtype=torch.float64)
        return Mlp(widths), Dataset(inputs, torch.randint(widths[-1], (num_samples,), generator=generator)), None

    return Recipe(content, "tiny")


def _digits(widths: tuple[int, ...], activation: str, num_samples: int) -> Recipe:
    return Recipe(
        lambda generator, device_type: (Mlp(widths, activation), digits(num_samples, generator), None), "tiny"
    )


def _conv(channels: tuple[int, ...], num_samples: int) -> Recipe:
    """A convolutional network with pooling on normal images of random classes."""

    def content(generator: torch.Generator, device_type: str) -> Content:
        images = torch.randn(num_samples, 32 * 32, generator=generator, dtype=torch.float64)
        labels = torch.randint(10, (num_samples,), generator=generator)
        return Conv(channels, image_size=32, pooling=True), Dataset(images, labels), None

    return Recipe(content, "tiny")


def _images(module: Callable[[], nn.Module], num_samples: int, *, warm_up: str) -> Recipe:
    """A module of PyTorch on normal images 3 x 32 x 32 of random classes, exported and read as a server does."""

    def content(generator: torch.Generator, device_type: str) -> Content:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = module().eval()
        images = torch.randn(num_samples, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (num_samples,), generator=generator)
        return exported(network, images[:2]), Dataset(images.double(), labels), network

    return Recipe(content, warm_up)


RECIPES = {
    "gpt-small": _gpt2((4, 4, 256, 128, 2048), {"cpu": (4, 128)}),
    "mlp": _classification((64, 512, 512, 512, 10), 1024),
    "gpt2": _gpt2((12, 12, 768, 1024, 50257), {"cpu": (2, 128), "cuda": (8, 1024)}),
    "digits": _digits((64, 32, 10), "relu", 512),
    "digits-deep": _digits((64, 32, 32, 10), "tanh", 512),
    "conv": _conv((16, 32, 64), 64),
    "resnet18": _images(partial(resnet18, 16), 32, warm_up="tiny-resnet18"),
    "vit": _images(partial(VisionTransformer, 96, 6, 4), 16, warm_up="tiny-vit"),
    "tiny-resnet18": _images(partial(resnet18, 1), 2, warm_up="tiny-resnet18"),
    "tiny-vit": _images(partial(VisionTransformer, 4, 1, 1), 2, warm_up="tiny-vit"),
    "tiny": _digits((64, 4, 10), "tanh", 32),  # for warming up, and for the tests of these programs
    "tiny-gpt": _gpt2((1, 2, 8, 8, 16), {"cpu": (2, 8)}),
}


def make_problem(name: str, device: torch.device, dtype: torch.dtype) -> Problem:
    """The same numbers in every process, up to the rounding of `dtype`."""
    generator = torch.Generator().manual_seed(0)
    model, data, module = RECIPES[name].content(generator, device.type)
    parameters = model.initial_parameters(generator, dtype, device)
    in_order = {each: parameters[each] for each in model.parameter_shapes}
    return Problem(
        name, model, data.to(dtype, device), in_order, module if module is None else module.to(device, dtype)
    )


def warm_up_problem(problem: Problem) -> Problem:
    """A small problem, on the same device, that loads the same code."""
    return make_problem(RECIPES[problem.name].warm_up, problem.device, problem.dtype)
