"""Networks as their users have them, modules of PyTorch, and what a server makes of them."""

import io
import zipfile
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hessian_spectrum.client.module_export import module_program
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.programs.program import ProgramError
from hessian_spectrum.service.uploads.pt2 import read_program


class _Block(nn.Module):
    """Two convolutions with batch norm, and a connection around them."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outgoing)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outgoing)
        self.shortcut = nn.Sequential()
        if stride > 1 or incoming != outgoing:
            self.shortcut = nn.Sequential(
                nn.Conv2d(incoming, outgoing, 1, stride, bias=False), nn.BatchNorm2d(outgoing)
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


def resnet18(width: int, num_classes: int = 10) -> nn.Module:
    """ResNet-18 for images of 32 x 32 pixels; width: channels of the first stage."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    incoming = width
    for stage in range(4):
        outgoing = width * 2**stage
        layers += [_Block(incoming, outgoing, 1 if stage == 0 else 2), _Block(outgoing, outgoing, 1)]
        incoming = outgoing
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(incoming, num_classes))


class VisionTransformer(nn.Module):
    """A vision transformer on images of 32 x 32 pixels in patches of 4 x 4, whose class token is read out."""

    def __init__(self, width: int, depth: int, heads: int, num_classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 65, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], dim=1) + self.positions
        logits: Tensor = self.head(self.encoder(tokens)[:, 0])
        return logits


class UNet(nn.Module):
    """A U-Net of two levels for images, with one output per pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down1, self.down2 = _convolutions(1, width), _convolutions(width, 2 * width)
        self.bottom = _convolutions(2 * width, 4 * width)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join2, self.join1 = _convolutions(4 * width, 2 * width), _convolutions(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        middle = self.down2(F.max_pool2d(high, 2))
        low = self.bottom(F.max_pool2d(middle, 2))
        middle = self.join2(torch.cat([self.up2(low), middle], dim=1))
        pixels: Tensor = self.head(self.join1(torch.cat([self.up1(middle), high], dim=1)))
        return pixels.flatten(1)


def _convolutions(incoming: int, outgoing: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(incoming, outgoing, 3, padding=1), nn.GroupNorm(4, outgoing), nn.ReLU()),
        *(nn.Conv2d(outgoing, outgoing, 3, padding=1), nn.GroupNorm(4, outgoing), nn.ReLU()),
    )


class Recurrent(nn.Module):
    """A classifier of sequences by the last output of an LSTM or a GRU."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU], num_inputs: int, width: int, depth: int = 1) -> None:
        super().__init__()
        self.layers = cell(num_inputs, width, depth, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x)[0][:, -1])
        return logits


class Mixer(nn.Module):
    """Multilayer perceptrons across positions and across channels in turn."""

    def __init__(self, length: int, width: int, depth: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.positions = nn.ModuleList(_perceptron(length) for _ in range(depth))
        self.channels = nn.ModuleList(_perceptron(width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for index, (positions, channels) in enumerate(zip(self.positions, self.channels, strict=True)):
            x = x + positions(self.norms[2 * index](x).transpose(1, 2)).transpose(1, 2)
            x = x + channels(self.norms[2 * index + 1](x))
        logits: Tensor = self.head(x.mean(1))
        return logits


def _perceptron(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Dense(nn.Module):
    """Convolutions each of which reads what all before it have given."""

    def __init__(self, growth: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + growth * i, growth, 3, padding=1) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(growth) for _ in range(depth))
        self.head = nn.Linear(3 + growth * depth, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.cat([x, F.silu(norm(layer(x)))], dim=1)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Plain(nn.Module):
    """Convolutions without norms, each followed by an activation and every second one by pooling."""

    def __init__(self, *channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (incoming, outgoing) in enumerate(pairwise((3, *channels))):
            layers += [nn.Conv2d(incoming, outgoing, 3, padding=1), activation()]
            layers += [nn.MaxPool2d(2)] if index % 2 else []
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x).mean((2, 3)))
        return logits


class Gated(nn.Module):
    """Layers whose units are multiplied by gates, with RMS norms, as in recent language models."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for norm, gate, up, down in zip(self.norms, self.gates, self.up, self.down, strict=True):
            hidden = norm(x)
            x = x + down(F.silu(gate(hidden)) * up(hidden))
        logits: Tensor = self.head(x.mean(1))
        return logits


def perceptron(*widths: int, activation: type[nn.Module]) -> nn.Module:
    """A fully connected network."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def exported(module: nn.Module, example: Tensor) -> Exported:
    """The model that a job computes with, after the module was exported and read."""
    with zipfile.ZipFile(io.BytesIO(module_program(module.eval(), example))) as archive:
        root = archive.namelist()[0].partition("/")[0]

        def contents(name: str) -> memoryview:
            try:
                return memoryview(archive.read(f"{root}/{name}"))
            except KeyError:
                raise ProgramError(f"it has no member {name}") from None

        read = read_program(contents)
    arrays = {name: torch.from_numpy(np.array(array.values, order="C")) for name, array in read.arrays.items()}
    return Exported(read.program, arrays)
