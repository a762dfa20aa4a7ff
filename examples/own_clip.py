"""Add your own CLIP: one class that implements ``scanseg.contracts.ClipEncoder``, in one file.

    python examples/own_clip.py --output own_clip

or by class path, from the folder ``examples``, with every command that takes a preset:

    PYTHONPATH=. scanseg segment photo.jpg "red" "green" "white" --preset own_clip.colour_model

The encoder here needs no weights: it knows the eleven basic colour words and nothing else. Its
joint space has one axis per colour; a word is its axis, and pixels are as near to each axis as they
are to that colour. A real CLIP does the same three things, encode words, photos and regions, with
networks.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg import InferenceSettings, Segmenter
from scanseg.contracts import ClipTokens, Regions, Semantics, TokenEdit
from scanseg.proposals.superpixels import SuperpixelProposals
from scanseg.recipe import Recipe, Resize

COLOURS = {
    "black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "red": (200, 30, 30),
    "green": (50, 140, 50), "blue": (40, 70, 190), "yellow": (230, 210, 40),
    "orange": (230, 130, 30), "brown": (120, 70, 35), "pink": (235, 150, 180),
    "purple": (120, 50, 150),
}  # fmt: skip
STRIDE = 32  # photo pixels per cell of the dense map
NEARNESS = 60.0  # RGB distance at which a colour counts 1/e


class ColourClip(torch.nn.Module):
    """A ``ClipEncoder`` for colour words (D = 11)."""

    joint_width = len(COLOURS)
    vision_width = len(COLOURS)
    depth = 1
    region_size = 32  # side of the crops of encode_regions
    grid = (1, 1)
    pixel_mean = (0.5, 0.5, 0.5)
    pixel_std = (0.5, 0.5, 0.5)
    fingerprint = "colour-words-1"  # changes when encode_text changes: key of the text cache

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("palette", torch.tensor(list(COLOURS.values())).float())  # (D, 3)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(P, D) unit norm: the colours that a prompt names, or all of them a little."""
        rows = []
        for prompt in prompts:
            words = set(re.findall(r"[a-z]+", prompt.lower()))
            rows.append([1.0 if colour in words else 0.01 for colour in COLOURS])
        return F.normalize(torch.tensor(rows).reshape(-1, self.joint_width), dim=-1)

    def encode_image(
        self, pixels: Tensor, *, layers: Sequence[int] = (), semantics: Semantics = "released"
    ) -> ClipTokens:
        """Tokens of whole photos, (B, 3, h, w) RGB in 0..255."""
        cells = F.adaptive_avg_pool2d(
            pixels.float(), (-(-pixels.shape[-2] // STRIDE), -(-pixels.shape[-1] // STRIDE))
        )  # (B, 3, rows, columns)
        dense = self.embed(cells.movedim(1, -1)).movedim(-1, 1)  # (B, D, rows, columns)
        pooled = self.embed(pixels.float().mean((2, 3)))  # (B, D)
        rows, columns = dense.shape[-2:]
        return ClipTokens(
            patches={1: dense.flatten(2).transpose(1, 2)},
            cls={0: pooled, 1: pooled},
            grids={1: (rows, columns)},
            pooled=pooled,
            dense=dense,
        )

    def encode_regions(
        self, regions: Regions, context: ClipTokens, edit: TokenEdit | None = None
    ) -> Tensor:
        """(R, D) unit norm: the mean over the mask of each crop of what its pixels look like."""
        colours = (regions.pixels * 0.5 + 0.5) * 255  # (R, 3, S, S), back to RGB
        looks = self.embed(colours.movedim(1, -1))  # (R, S, S, D)
        inside = regions.masks[..., None].float()
        total = (looks * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
        return F.normalize(total, dim=-1)

    def embed(self, colours: Tensor) -> Tensor:
        """(..., 3) RGB in 0..255 -> (..., D) unit norm."""
        away = (colours[..., None, :] - self.palette).norm(dim=-1)
        return F.normalize((-away / NEARNESS).exp(), dim=-1)


def colour_model() -> Segmenter:
    """Superpixels as proposals, colours as their class: the parts of a preset, put together."""
    return Segmenter(
        clip=ColourClip(),
        proposals=SuperpixelProposals(),
        recipe=Recipe(
            name="colour_clip",
            templates=("{}",),
            resize=Resize(short=320, longest=512),
            region_scale=20.0,
            token_layers=(1,),
            settings=InferenceSettings(branches="clip", shift_source="none"),
        ),
    )


def main() -> None:
    """Segment a photo by colour words."""
    from skimage import data

    parser = argparse.ArgumentParser(description="a CLIP of one's own")
    parser.add_argument("--output", type=Path, default=Path("own_clip"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    out = colour_model()(data.coffee(), ["red", "white", "brown", "black"])
    for segment in out:
        print(f"{segment.name:6} {segment.area / out.labels.size:5.1%}")
    out.overlay().save(folder / "overlay.png")
    print(f"look at {folder / 'overlay.png'}")


if __name__ == "__main__":
    main()
