"""EfficientNet-Lite0 (Tan and Le, 2019, arXiv:1905.11946; the "Lite" variant of its authors' code).

The image tower of the embedded preset and the branch of its head. Parameters have timm's names
(``tf_efficientnet_lite0``), and results equal timm's bit for bit (tested). timm itself is not used
here because importing it takes 1.4 s, most of which is torch's compiler, which nobody needs to
label a photo (``docs/decisions/0058-imports.md``).

Against EfficientNet: no squeeze-and-excitation, ReLU6 in place of swish, stem and head of fixed
width. Convolutions are padded as TensorFlow's "same": output = ceil(input / stride), and where the
padding is odd, the larger half is to the right and below.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STEM, HEAD, CLASSES = 32, 1280, 1000
STAGES = (  # (blocks, kernel, stride of the first, expansion, width)
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
EPSILON = 1e-3


class EfficientNetLite0(nn.Module):
    """The parts of the classifier; who uses them decides what is read between them.

    ``conv_stem``, ``bn1``, ``blocks[0..6]`` (strides 2, 4, 8, 16, 16, 32, 32), ``conv_head`` and
    ``bn2`` give (B, 1280, rows, columns); ``classifier`` takes their mean over rows and columns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, STEM, 3, stride=2)
        self.bn1 = NormAct(STEM)
        self.blocks = blocks()
        self.conv_head = nn.Conv2d(STAGES[-1][-1], HEAD, 1, bias=False)
        self.bn2 = NormAct(HEAD)
        self.classifier = nn.Linear(HEAD, CLASSES)


def blocks() -> nn.Sequential:
    """The seven stages between stem and head, each an ``nn.Sequential`` of blocks."""
    stages, width = [], STEM
    for count, kernel, stride, expansion, wider in STAGES:
        stage: list[nn.Module] = []
        for i in range(count):
            step = stride if i == 0 else 1
            if expansion == 1:
                stage.append(Separable(width, wider, kernel, step))
            else:
                stage.append(InvertedResidual(width, wider, kernel, step, expansion))
            width = wider
        stages.append(nn.Sequential(*stage))
    return nn.Sequential(*stages)


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "same"."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0  # then it does not depend on the size
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', ceil(h / stride), ceil(w / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            below, right = (
                max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]
            )
            x = F.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))
        return super().forward(x)


class NormAct(nn.BatchNorm2d):
    """Batch norm and, unless told otherwise, ReLU6."""

    def __init__(self, width: int, *, activate: bool = True) -> None:
        super().__init__(width, eps=EPSILON)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        x = super().forward(x)
        return F.relu6(x, inplace=True) if self.activate else x


class Separable(nn.Module):
    """Depthwise, then pointwise convolution: the first block."""

    def __init__(self, width: int, wider: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv(width, width, kernel, stride=stride, groups=width)
        self.bn1 = NormAct(width)
        self.conv_pw = nn.Conv2d(width, wider, 1, bias=False)
        self.bn2 = NormAct(wider, activate=False)
        self.residual = stride == 1 and width == wider

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w')."""
        y = self.bn1(self.conv_dw(x))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.residual else y


class InvertedResidual(nn.Module):
    """Widen, depthwise convolution, narrow again, add where shapes allow (MobileNetV2)."""

    def __init__(self, width: int, wider: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.conv_pw = nn.Conv2d(width, inner, 1, bias=False)
        self.bn1 = NormAct(inner)
        self.conv_dw = SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self.bn2 = NormAct(inner)
        self.conv_pwl = nn.Conv2d(inner, wider, 1, bias=False)
        self.bn3 = NormAct(wider, activate=False)
        self.residual = stride == 1 and width == wider

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w')."""
        y = self.bn1(self.conv_pw(x))
        y = self.bn2(self.conv_dw(y))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.residual else y
