"""Numbers of an architecture, read off the shapes of its weights, and the check that nothing lacks.

What no shape shows is a convention: 64 channels per CLIP head, which CLIP layers feed SIM and where
contextual shift acts (the released choice for 12 and 24 blocks, the same fractions otherwise).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scanseg.calibration.semantic_integration import SemanticIntegration, SemanticIntegrationConfig
from scanseg.contracts import InputError
from scanseg.convert.names import DECODER, PIXELS, SWIN
from scanseg.encoders.open_clip import OpenClipEncoder
from scanseg.proposals.mask2former import Mask2FormerProposals

Shapes = Mapping[str, tuple[int, ...]]

KNOWN_CLIPS: Mapping[tuple[int, int, int, int], str] = {
    # (vision width, patch, blocks, joint width): open_clip's name
    (768, 16, 12, 512): "ViT-B-16",
    (1024, 14, 24, 768): "ViT-L-14",
}
PRESETS: Mapping[str, str] = {"ViT-B-16": "vit_b", "ViT-L-14": "vit_l"}
"""Which preset a whole SCAN model with this CLIP and the released Mask2Former is."""

SIGMAS = (9.0, 7.0, 3.0)
_CLIP_HEAD = 64
_DEFORMABLE_LEVELS, _DEFORMABLE_POINTS = 3, 4


def describe_swin(shapes: Shapes) -> dict[str, Any]:
    """``backbone`` argument of ``Mask2FormerProposals`` for the Swin in ``shapes``."""
    stages = _count(shapes, re.escape(SWIN) + r"encoder\.layers\.(\d+)\.")
    tables = [
        shapes[
            f"{SWIN}encoder.layers.{stage}.blocks.0.attention.relative_position_bias"
            ".relative_position_bias_table"
        ]
        for stage in range(stages)
    ]
    window = (math.isqrt(tables[0][0]) + 1) // 2  # the table has (2 window - 1)^2 rows
    return {
        "model_type": "swin",
        "image_size": 384 if window == 12 else 32 * window,
        "embed_dim": shapes[SWIN + "embeddings.patch_embeddings.projection.weight"][0],
        "depths": [
            _count(shapes, re.escape(SWIN) + rf"encoder\.layers\.{stage}\.blocks\.(\d+)\.")
            for stage in range(stages)
        ],
        "num_heads": [heads for _, heads in tables],
        "window_size": window,
        "drop_path_rate": 0.3,
    }


def describe_clip(shapes: Shapes, prefix: str = "region_clip.model.") -> str | dict[str, Any]:
    """open_clip's name of the CLIP in ``shapes``, or its model configuration if it has none."""
    visual = prefix + "visual."
    width, _, patch, _ = shapes[visual + "conv1.weight"]
    positions = shapes[visual + "positional_embedding"][0]
    joint_width = shapes[visual + "proj"][1]
    blocks = _count(shapes, re.escape(visual) + r"transformer\.resblocks\.(\d+)\.")
    name = KNOWN_CLIPS.get((width, patch, blocks, joint_width))
    if name is not None and positions == 1 + (224 // patch) ** 2:
        return name
    context, text_width = shapes[prefix + "positional_embedding"]
    return {
        "embed_dim": joint_width,
        "vision_cfg": {
            "image_size": math.isqrt(positions - 1) * patch,
            "layers": blocks,
            "width": width,
            "head_width": min(_CLIP_HEAD, width),
            "patch_size": patch,
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": shapes[prefix + "token_embedding.weight"][0],
            "width": text_width,
            "heads": max(1, text_width // _CLIP_HEAD),
            "layers": _count(shapes, re.escape(prefix) + r"transformer\.resblocks\.(\d+)\."),
        },
    }


def describe_scan(shapes: Shapes) -> dict[str, Any]:
    """``"architecture"`` of ``config.json`` for a whole SCAN model, from its shapes."""
    pixels = PIXELS + "decoder."
    layers = re.escape(DECODER) + r"decoder\.layers\.(\d+)\."
    queries, width = shapes[DECODER + "queries_features.weight"]
    offsets = shapes[pixels + "encoder.layers.0.self_attn.sampling_offsets.weight"][0]
    vision_width, _, _, _ = shapes["region_clip.model.visual.conv1.weight"]
    joint_width = shapes["region_clip.model.visual.proj"][1]
    blocks = _count(shapes, r"region_clip\.model\.visual\.transformer\.resblocks\.(\d+)\.")
    return {
        "clip": describe_clip(shapes),
        "joint_width": joint_width,
        "vision_width": vision_width,
        "proposals": {
            "joint_width": joint_width,
            "backbone": describe_swin(shapes),
            "queries": queries,
            "width": width,
            "heads": offsets // (2 * _DEFORMABLE_LEVELS * _DEFORMABLE_POINTS),
            "pixel_layers": _count(shapes, re.escape(pixels) + r"encoder\.layers\.(\d+)\."),
            "pixel_feedforward": shapes[pixels + "encoder.layers.0.fc1.weight"][0],
            "decoder_layers": _count(shapes, layers),
            "decoder_feedforward": shapes[DECODER + "decoder.layers.0.fc1.weight"][0],
            "head_width": shapes["proposals.embedding_head.fc1.weight"][0],
        },
        "integration": {
            "layers": [math.ceil(blocks * share) for share in (0.5, 0.75, 1.0)],
            "sigmas": list(SIGMAS),
            "encoder_width": shapes["integration.encoder.layers.0.linear1.weight"][0],
            "attention_layers": _count(shapes, r"integration\.attention\.(\d+)\."),
            "encoder_layers": _count(shapes, r"integration\.encoder\.layers\.(\d+)\."),
        },
        "shift_layers": list(range(1, {12: 6, 24: 10}.get(blocks, blocks // 2 + 1), 2)),
    }


def preset_of(architecture: Mapping[str, Any]) -> str | None:
    """The preset that is exactly this architecture, if there is one."""
    with torch.device("meta"):
        released = Mask2FormerProposals(joint_width=architecture["joint_width"]).architecture
    same = all(released[k] == v for k, v in architecture["proposals"].items())
    clip = architecture["clip"]
    return PRESETS.get(clip) if same and isinstance(clip, str) else None


def check_scan(shapes: Shapes, architecture: Mapping[str, Any], source: str) -> None:
    """Hold the weights of a whole model against the modules they are for, both ways.

    The modules are built without memory, from the same numbers the loader will use.

    Raises:
        InputError: a weight is missing, left over or of another shape.
    """
    clip, joint_width = architecture["clip"], architecture["joint_width"]
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            "proposals": Mask2FormerProposals(**architecture["proposals"]),
            "clip": OpenClipEncoder(clip, text=False),
            "region_clip": OpenClipEncoder(clip),
            "integration": SemanticIntegration(
                SemanticIntegrationConfig(**architecture["integration"]),
                joint_width=joint_width,
                vision_widths=architecture["vision_width"],
            ),
        }
    expected: dict[str, tuple[int, ...]] = {
        f"{part}.{name}": tuple(tensor.shape)
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    expected["void"] = (joint_width,)
    compare(shapes, expected, source)


def check_swin(shapes: Shapes, backbone: Mapping[str, Any], source: str) -> None:
    """As ``check_scan``, for the Swin alone (its stage norms are trained from the start)."""
    with torch.device("meta"):
        state = Mask2FormerProposals(joint_width=None, backbone=backbone).state_dict()
    compare(
        {k: v for k, v in shapes.items() if k.startswith(SWIN)},
        {
            "proposals." + k: tuple(v.shape)
            for k, v in state.items()
            if ("proposals." + k).startswith(SWIN)
        },
        source,
    )


def check_clip(shapes: Shapes, clip: str | Mapping[str, Any], source: str) -> None:
    """As ``check_scan``, for the region CLIP alone."""
    with torch.device("meta"):
        state = OpenClipEncoder(clip).state_dict()
    compare(
        {k: v for k, v in shapes.items() if k.startswith("region_clip.")},
        {"region_clip." + k: tuple(v.shape) for k, v in state.items()},
        source,
    )


def compare(found: Shapes, expected: Shapes, source: str) -> None:
    """Raise an ``InputError`` that names the first differences, if there are any."""
    missing = [f"{n} missing" for n in expected if n not in found]
    extra = [f"{n} unexpected" for n in found if n not in expected]
    wrong = [
        f"{n} is {found[n]}, not {expected[n]}"
        for n in expected
        if n in found and found[n] != expected[n]
    ]
    problems = missing + extra + wrong
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"{source} is not whole: {'; '.join(problems[:3])}{more}; get the complete checkpoint"
        )


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that ``pattern`` captures at the start of a name."""
    numbers = [int(m.group(1)) for name in shapes if (m := re.match(pattern, name))]
    return max(numbers, default=-1) + 1
