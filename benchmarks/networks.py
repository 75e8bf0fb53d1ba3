"""Networks as their users have them, modules of PyTorch, and what a server makes of them."""

import io
import zipfile

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
