"""Class-agnostic mask proposals from Mask2Former (SCAN sec. 3), on transformers' own model.

The layers and their weights are transformers' own, so its checkpoints load as they are. What this
file adds is what SCAN needs and transformers does not have:

* normalisation and padding of raw photos, and masks in the frame of the photo;
* an embedding head in place of the class head: proposal embeddings F_N in CLIP's joint space;
* the predictions of every decoder layer, for training;
* a masked decoder that computes full-size masks only where somebody reads them, the same sums in
  another order (``quick_layers`` does the like for single layers).

Quirks of transformers that stay in here: ``decoder_layers=N`` builds N - 1 layers; its Swin ends
with a norm that nothing reads (taken out); its pixel decoder has no float32 guard under autocast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerModel,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.logging import is_progress_bar_enabled

from scanseg.contracts import ClipTokens, InputError, Proposals
from scanseg.proposals.quick_layers import take_over
from scanseg.weights import WEIGHTS, read_config

SWIN_B: Mapping[str, Any] = {
    "model_type": "swin",
    "image_size": 384,
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32],
    "window_size": 12,
    "drop_path_rate": 0.3,
}
"""The backbone of both released models: Swin-B, window 12, pre-trained at 384 pixels."""

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""ImageNet statistics, of values in [0, 255]; products with 255 would differ in the last bit."""

STRIDE = 32
"""Photos are padded to multiples of this many pixels: the stride of the deepest backbone map."""

MASK_STRIDE = 4
"""Mask logits have one value per square of this many pixels."""


@dataclass(frozen=True)
class LayerPrediction:
    """What one decoder layer says.

    Attributes:
        mask_logits: (B, Q, h', w') at 1/4 of the padded photo, before the sigmoid.
        embeddings: (B, Q, D), not normalised; ``None`` for a model without an embedding head.
    """

    mask_logits: Tensor
    embeddings: Tensor | None


class EmbeddingHead(nn.Module):
    """Two linears with a ReLU between them: decoder states -> proposal embeddings F_N."""

    def __init__(self, width: int, hidden: int, joint_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, joint_width)

    def forward(self, states: Tensor) -> Tensor:
        """(B, Q, width) -> (B, Q, D), not normalised."""
        return self.fc2(F.relu(self.fc1(states)))


class Mask2FormerProposals(nn.Module):
    """Q masks and Q embeddings of a photo; implements ``contracts.ProposalGenerator``.

    Every argument is a plain value, so ``config.json`` of a saved model holds them as they are
    (``architecture``).

    Args:
        joint_width: D of the embedding head; ``None`` builds no head, and proposals then carry
            masks only.
        backbone: configuration of any transformers backbone with maps at strides 4, 8, 16, 32:
            ``{"model_type": "swin", ...}`` or, for the models of timm,
            ``{"model_type": "timm_backbone", "backbone": "resnet50"}``.
        queries: Q.
        width: channels of pixel decoder, masked decoder and mask embeddings; a multiple of 32.
        heads: attention heads of both decoders.
        pixel_layers: deformable attention layers of the pixel decoder.
        pixel_feedforward: hidden width of their feed-forward part.
        decoder_layers: layers of the masked decoder that are really built (10 in SCAN).
        decoder_feedforward: hidden width of their feed-forward part.
        head_width: hidden width of the embedding head.
        class_logits: columns of a class head, the last one "no object", for models that were
            trained on closed labels; 0 builds none. Its only use is ``min_objectness``.
        min_objectness: proposals whose probability of being an object is lower get an empty mask;
            in [0, 1]. Needs a class head.

    Raises:
        InputError: the backbone is unknown, or sizes do not fit. Maps at other strides are reported
            when the first photo arrives.
    """

    def __init__(
        self,
        *,
        joint_width: int | None,
        backbone: Mapping[str, Any] = SWIN_B,
        queries: int = 100,
        width: int = 256,
        heads: int = 8,
        pixel_layers: int = 6,
        pixel_feedforward: int = 1024,
        decoder_layers: int = 10,
        decoder_feedforward: int = 2048,
        head_width: int = 1024,
        class_logits: int = 0,
        min_objectness: float = 0.0,
    ) -> None:
        super().__init__()
        if width % 32 or width % heads:
            raise InputError(f"width must be a multiple of 32 and of heads={heads}, not {width}")
        if not 0.0 <= min_objectness <= 1.0:
            raise InputError(f"min_objectness must lie in [0, 1], not {min_objectness!r}")
        if min_objectness and not class_logits:
            raise InputError("min_objectness needs a model with a class head (class_logits > 0)")
        self.architecture: dict[str, Any] = {
            "joint_width": joint_width,
            "backbone": dict(backbone),
            "queries": queries,
            "width": width,
            "heads": heads,
            "pixel_layers": pixel_layers,
            "pixel_feedforward": pixel_feedforward,
            "decoder_layers": decoder_layers,
            "decoder_feedforward": decoder_feedforward,
            "head_width": head_width,
            "class_logits": class_logits,
            "min_objectness": min_objectness,
        }
        self.queries = queries
        self.min_objectness = min_objectness
        self.model = Mask2FormerModel(
            Mask2FormerConfig(
                backbone_config=_backbone_config(backbone),
                feature_size=width,
                mask_feature_size=width,
                hidden_dim=width,
                num_attention_heads=heads,
                num_queries=queries,
                encoder_layers=pixel_layers,
                encoder_feedforward_dim=pixel_feedforward,
                decoder_layers=decoder_layers + 1,  # transformers builds one less
                dim_feedforward=decoder_feedforward,
            )
        )
        backbone_model = self.model.pixel_level_module.encoder
        if hasattr(backbone_model, "swin"):
            backbone_model.swin.layernorm = nn.Identity()  # only its pooled output goes through it
        take_over(self.model)
        self.embedding_head = (
            EmbeddingHead(width, head_width, joint_width) if joint_width is not None else None
        )
        self.class_head = nn.Linear(width, class_logits) if class_logits else None

    @classmethod
    def from_transformers(cls, folder: str | Path, *, min_objectness: float = 0.0) -> Self:
        """A stock Mask2Former as class-agnostic proposals without embeddings.

        Args:
            folder: ``config.json`` and ``model.safetensors`` as transformers saves a
                ``Mask2FormerForUniversalSegmentation`` (the COCO-panoptic models of the hub). Names
                of older transformers versions are understood.
            min_objectness: see the class; the class head tells "no object" from everything else and
                is not used for anything more.

        Raises:
            InputError: the folder holds something else, or weights are missing.
        """
        folder = Path(folder)
        kind = read_config(folder).get("model_type")
        if kind != "mask2former":
            raise InputError(f"{folder} holds a {kind} model, not a mask2former")
        if not (folder / WEIGHTS).is_file():
            raise InputError(f"{folder} has no {WEIGHTS}; it must be as transformers saves a model")
        with _quiet():
            config = Mask2FormerConfig.from_pretrained(folder, local_files_only=True)
            _check_plain(config, folder)
            stock, report = Mask2FormerForUniversalSegmentation.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        missing = sorted(key for key in report["missing_keys"] if not key.endswith(_UNREAD))
        if missing or report["mismatched_keys"]:
            wrong = missing or sorted(str(entry[0]) for entry in report["mismatched_keys"])
            raise InputError(
                f"{folder / WEIGHTS} does not fit its config.json: {len(wrong)} of the weights are "
                f"missing or of another shape, first {wrong[0]}; download the model again"
            )
        backbone = config.backbone_config.to_diff_dict()
        backbone["model_type"] = config.backbone_config.model_type
        proposals = cls(
            joint_width=None,
            backbone=backbone,
            queries=config.num_queries,
            width=config.hidden_dim,
            heads=config.num_attention_heads,
            pixel_layers=config.encoder_layers,
            pixel_feedforward=config.encoder_feedforward_dim,
            decoder_layers=config.decoder_layers - 1,
            decoder_feedforward=config.dim_feedforward,
            class_logits=stock.class_predictor.out_features,
            min_objectness=min_objectness,
        )
        state = stock.model.state_dict()
        proposals.model.load_state_dict({k: v for k, v in state.items() if not k.endswith(_UNREAD)})
        assert proposals.class_head is not None
        proposals.class_head.load_state_dict(stock.class_predictor.state_dict())
        return proposals.eval()

    def forward(self, pixels: Tensor, context: ClipTokens | None = None) -> Proposals:
        """Masks and embeddings of the last decoder layer.

        Args:
            pixels: (B, 3, h, w), RGB in 0..255, uint8 or float.
            context: not read; part of ``contracts.ProposalGenerator``.

        Raises:
            InputError: ``pixels`` has another shape.
        """
        images = self.prepare(pixels)  # (B, 3, h+, w+)
        states, logits = self._decode(*self._features(images), every_layer=False)[-1]
        masks = _full_size(logits, images.shape[-2:], pixels.shape[-2:])  # (B, Q, h, w)
        if self.min_objectness and self.class_head is not None:
            objectness = 1 - self.class_head(states).softmax(-1)[..., -1]  # (B, Q)
            masks = masks * (objectness >= self.min_objectness)[..., None, None]
        return Proposals(masks=masks, embeddings=self._embed(states))

    def forward_layers(self, pixels: Tensor) -> tuple[LayerPrediction, ...]:
        """Predictions of all decoder layers, for deep supervision.

        Args:
            pixels: as for ``forward``.

        Returns:
            One more than there are layers: of the queries before the first layer, then after each.
            The last one is what ``forward`` returns; the others are the auxiliary outputs.
        """
        outputs = self._decode(*self._features(self.prepare(pixels)), every_layer=True)
        return tuple(LayerPrediction(logits, self._embed(states)) for states, logits in outputs)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Normalise photos, then pad them right and bottom with zeros to multiples of 32.

        Args:
            pixels: (B, 3, h, w), RGB in 0..255.

        Returns:
            (B, 3, h+, w+) in the floating type of the model's weights.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
            raise InputError(
                f"pixels must be a (B, 3, h, w) batch of photos, not {tuple(pixels.shape)}"
            )
        height, width = pixels.shape[-2:]
        device = self.model.device
        mean = torch.tensor(PIXEL_MEAN, device=device).view(1, 3, 1, 1)
        std = torch.tensor(PIXEL_STD, device=device).view(1, 3, 1, 1)
        images = (pixels.to(device, torch.float32) - mean) / std
        return F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE)).to(self.model.dtype)

    def backbone_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised maps of the backbone at strides 4, 8, 16, 32, each (B, C_i, h_i, w_i)."""
        maps = tuple(self.model.pixel_level_module.encoder(images).feature_maps)
        strides = [images.shape[-1] / m.shape[-1] for m in maps]
        if strides != [4, 8, 16, 32]:
            raise InputError(
                f"the backbone must give maps at strides 4, 8, 16, 32, not {strides}; "
                f"choose its stages with out_indices or out_features"
            )
        return maps

    def pixel_decoder(self, features: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Mask features at stride 4 and multi-scale features at strides 32, 16, 8.

        Sampling positions are too coarse in half precision, so autocast is switched off here.
        """
        with torch.autocast(features[0].device.type, enabled=False):
            parameter_type = self.model.pixel_level_module.decoder.mask_projection.weight.dtype
            output = self.model.pixel_level_module.decoder([f.to(parameter_type) for f in features])
        return output.mask_features, tuple(output.multi_scale_features)

    def _features(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.pixel_decoder(self.backbone_features(images))

    def _embed(self, states: Tensor) -> Tensor | None:
        return None if self.embedding_head is None else self.embedding_head(states)

    def _decode(
        self, mask_features: Tensor, scales: tuple[Tensor, ...], *, every_layer: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """The masked transformer decoder.

        A layer attends where the mask predicted before it is over one half, at the resolution of
        the scale it reads. Shrinking is linear, so the mask features are shrunk once per scale
        instead of every layer's masks.

        Without gradients the states of the queries are kept in double precision: whether a pixel
        is over one half hangs on the sign of a sum, one pixel more or less changes all layers after
        it, and in single precision that differs from one CPU to the next (docs/decisions/0021).

        Returns:
            (normalised states (B, Q, width), mask logits (B, Q, h', w')) of every layer, or of the
            last one only.
        """
        transformer, decoder = self.model.transformer_module, self.model.transformer_module.decoder
        batch, device, single = mask_features.shape[0], mask_features.device, mask_features.dtype
        twofold = not torch.is_grad_enabled() and device.type != "mps"
        precise = torch.float64 if twofold else single

        keys, values, coarse = [], [], []
        for level, scale in enumerate(scales):
            value = transformer.input_projections[level](scale).flatten(2)
            value = value + transformer.level_embed.weight[level][None, :, None]
            position = transformer.position_embedder(scale.shape, device, scale.dtype).flatten(2)
            values.append(value.transpose(1, 2))  # (B, N_level, width)
            keys.append((value + position).transpose(1, 2))
            with torch.no_grad():
                small = F.interpolate(mask_features, size=scale.shape[-2:], mode="bilinear")
                coarse.append(small.flatten(2).to(precise))  # (B, width, N_level)

        query_position = transformer.queries_embedder.weight.to(precise)  # (Q, width)
        hidden = transformer.queries_features.weight.to(precise).expand(batch, -1, -1)
        outputs: list[tuple[Tensor, Tensor]] = []
        for index, layer in enumerate([*decoder.layers, None]):
            states = _norm(decoder.layernorm, hidden)  # (B, Q, width)
            mask_embedding = states
            for block in decoder.mask_predictor.mask_embedder.layers:
                linear, activation = block.layers
                mask_embedding = activation(_linear(linear, mask_embedding))
            if every_layer or layer is None:
                logits = torch.einsum("bqc,bchw->bqhw", mask_embedding.to(single), mask_features)
                outputs.append((states.to(single), logits))
            if layer is None:
                break

            level = index % len(scales)
            with torch.no_grad():
                inside = torch.bmm(mask_embedding, coarse[level]).sigmoid_() >= 0.5  # (B, Q, N)
                inside |= ~inside.any(-1, keepdim=True)  # an empty mask attends everywhere
            cross, own = layer.cross_attn, layer.self_attn
            heads = cross.num_heads
            weights, biases = cross.in_proj_weight.chunk(3), cross.in_proj_bias.chunk(3)
            attended = _attend(
                F.linear(hidden + query_position, weights[0].to(precise), biases[0].to(precise)),
                F.linear(keys[level], weights[1], biases[1]),
                F.linear(values[level], weights[2], biases[2]),
                heads,
                inside[:, None],
            )
            hidden = hidden + _linear(cross.out_proj, attended)
            hidden = _norm(layer.cross_attn_layer_norm, hidden)

            placed = hidden + query_position
            attended = _attend(
                _linear(own.q_proj, placed),
                _linear(own.k_proj, placed).to(single),
                _linear(own.v_proj, hidden).to(single),
                heads,
            )
            hidden = hidden + _linear(own.out_proj, attended)
            hidden = _norm(layer.self_attn_layer_norm, hidden)

            changed = _linear(layer.fc2, F.relu(_linear(layer.fc1, hidden)))
            hidden = _norm(layer.final_layer_norm, hidden + changed)
        return outputs


def _full_size(logits: Tensor, padded: Sequence[int], size: Sequence[int]) -> Tensor:
    """Mask logits (B, Q, h', w') -> probabilities (B, Q, h, w): resize, cut the padding off.

    Without gradients a few masks at a time: all of them with and without padding would be the
    largest thing in memory (0.4 GiB for 100 masks at 640 x 864).
    """

    def grown(part: Tensor) -> Tensor:
        whole = F.interpolate(part, size=tuple(padded), mode="bilinear", align_corners=False)
        return whole[..., : size[0], : size[1]]

    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return grown(logits).sigmoid()
    masks = logits.new_empty(*logits.shape[:2], *size)
    for part, target in zip(logits.split(_MASKS, 1), masks.split(_MASKS, 1), strict=True):
        torch.sigmoid(grown(part), out=target)
    return masks


_MASKS = 10


def _attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention of projected (B, Q, width), (B, N, width), (B, N, width).

    It computes in the type of the keys (averages are forgiving) and answers in that of the queries.

    Args:
        mask: (B, 1, Q, N) bool, where a query may look.
    """
    q, k, v = (
        x.to(key.dtype).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)
    )
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2).to(query.dtype)


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    """The module at the precision of ``x``."""
    return F.linear(x, module.weight.to(x.dtype), module.bias.to(x.dtype))


def _norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    """The module at the precision of ``x``."""
    weight, bias = module.weight.to(x.dtype), module.bias.to(x.dtype)
    return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


_UNREAD = ("encoder.swin.layernorm.weight", "encoder.swin.layernorm.bias")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no remarks of transformers; what is wrong is raised as an error."""
    verbosity, bars = transformers_logging.get_verbosity(), is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _backbone_config(backbone: Mapping[str, Any]) -> Any:
    settings = dict(backbone)
    kind = settings.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise InputError(
            f"no backbone type {kind!r} in transformers; say swin or timm_backbone, for example"
        )
    if kind == "timm_backbone":
        settings.setdefault("out_indices", [0, 1, 2, 3])
    elif "out_features" not in settings and "out_indices" not in settings:
        settings["out_features"] = ["stage1", "stage2", "stage3", "stage4"]
    return CONFIG_MAPPING[kind](**settings)


def _check_plain(config: Mask2FormerConfig, folder: Path) -> None:
    """Refuse what the decoder here does not compute, rather than compute something else."""
    for name, expected in (("pre_norm", False), ("activation_function", "relu")):
        if getattr(config, name) != expected:
            raise InputError(
                f"{folder} has {name}={getattr(config, name)!r}; only {expected!r} works"
            )
    if not config.hidden_dim == config.feature_size == config.mask_feature_size:
        raise InputError(f"{folder} uses decoders of different widths; only one width works")
