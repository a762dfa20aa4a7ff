"""Any OpenCLIP vision transformer as the image-text encoder (SCAN sec. 3.1 and 3.2).

open_clip's own modules run unchanged; only the loop over the blocks is ours, so that tokens can be
read and edited between them. Without an edit the result equals ``encode_image`` bit for bit.

Parameters are named ``model.`` + open_clip's own name (``model.visual.conv1.weight``,
``model.transformer.resblocks.0.ln_1.weight``), with or without the text tower.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transformer import QuickGELU, VisionTransformer, text_global_pool
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scanseg.contracts import ClipTokens, InputError, Regions, Semantics, TokenEdit
from scanseg.encoders import quick_vit

PAD_TO = 32
"""The released code pads photos to a multiple of this before they are resized."""

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


class OpenClipEncoder(nn.Module):
    """An OpenCLIP ViT as a :class:`scanseg.contracts.ClipEncoder`.

    Gradients flow where the caller lets them: nothing is frozen and no gradient mode is set, except
    that text is always encoded without gradients.

    Args:
        architecture: a name of ``open_clip.list_models()``, or an open_clip model configuration
            (``embed_dim``, ``vision_cfg``, ``text_cfg``, optionally ``quick_gelu``).
        tag: name of the weights that will be loaded, such as "datacomp_xl_s13b_b90k". Nothing is
            loaded here: the tag chooses mean and standard deviation, and a name whose activation
            differs from the one the weights were trained with is refused.
        model: an open_clip model of that architecture to wrap, not copied; a new one with random
            weights by default.
        text: keep the text tower; without it, ``encode_text`` is refused.
        tokenizer: prompts -> (P, context) token ids; by default the architecture's own.
        pixel_mean: of values in [0, 1]; overrides the tag's.
        pixel_std: of values in [0, 1]; overrides the tag's.
        text_batch: prompts that go through the text tower at once.

    Raises:
        InputError: the architecture is unknown, not a vision transformer or not square, or tag and
            architecture do not belong together.
    """

    def __init__(
        self,
        architecture: str | Mapping[str, Any],
        *,
        tag: str | None = None,
        model: Any = None,
        text: bool = True,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        text_batch: int = 256,
    ) -> None:
        super().__init__()
        self.model: Any
        config = _configuration(architecture)
        weights = pretrained_config(architecture, tag) if tag is not None else {}
        if model is None:
            model = _build(config)
        _check_tower(architecture, config, model)
        # one naming, model.visual.*, with and without the text tower
        self.model = model if text else nn.ModuleDict({"visual": model.visual})
        self.has_text = text
        self.text_batch = text_batch
        self._tokenizer = tokenizer
        self._config = config
        self._fingerprint: tuple[object, str] | None = None

        visual = model.visual
        self.joint_width: int = visual.output_dim
        self.vision_width: int = visual.conv1.out_channels
        self.depth: int = len(visual.transformer.resblocks)
        self.region_size: int = visual.image_size[0]
        self.grid: tuple[int, int] = (visual.grid_size[0], visual.grid_size[1])
        self.pixel_mean = _triple(pixel_mean or weights.get("mean", OPENAI_DATASET_MEAN))
        self.pixel_std = _triple(pixel_std or weights.get("std", OPENAI_DATASET_STD))

    @classmethod
    def from_folder(cls, folder: str | Path, *, text: bool = True) -> OpenClipEncoder:
        """Read weights from a local folder laid out as an OpenCLIP repository on the hub.

        Args:
            folder: holds ``open_clip_config.json`` and ``open_clip_model.safetensors``.
            text: keep the text tower.

        Raises:
            InputError: a file is absent, or weights and configuration do not agree.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise InputError(f"{folder} has no {name}: give a folder with an OpenCLIP model")
        described = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        preprocess = described.get("preprocess_cfg", {})
        with torch.device("meta"):
            encoder = cls(
                described["model_cfg"],
                pixel_mean=preprocess.get("mean"),
                pixel_std=preprocess.get("std"),
                text=text,
            )
        state = load_file(folder / WEIGHTS_FILE)
        if not text:
            state = {k: v for k, v in state.items() if k.startswith("visual.")}
        try:
            encoder.model.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise InputError(f"{folder / WEIGHTS_FILE}: {' '.join(str(error).split())}") from error
        return encoder.eval()

    # ---------------------------------------------------------------- text

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts.

        Where the tower is causal, tokens behind the end of a prompt cannot influence it, so they
        are not computed: prompts of equal length run together, at that length.

        Returns:
            (P, D) float32 on the encoder's device, unit norm.

        Raises:
            InputError: the encoder was built without its text tower.
        """
        if not self.has_text:
            raise InputError("this encoder was built with text=False: build it with its text tower")
        if not prompts:
            return torch.zeros(0, self.joint_width, device=self._device)
        tokens = self.tokenize(list(prompts)).to(self._device)  # (P, context)
        result = torch.empty(len(prompts), self.joint_width, device=self._device)
        for length, rows in self._batches_of_equal_length(tokens):
            result[rows] = F.normalize(self.text_features(tokens[rows, :length]).float(), dim=-1)
        return result

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the text tower's configuration and weights; computed once for them."""
        state = self._text_state()
        if self._fingerprint is None or self._fingerprint[0] != _version(state):
            self._fingerprint = (_version(state), self._digest(sorted(state.items())))
        return self._fingerprint[1]

    def read_fingerprint(self, tensors: Mapping[str, Tensor]) -> None:
        """Compute ``fingerprint`` from the file that the text tower's weights were loaded from.

        Weights that are mapped from that file then stay on disk until a new word is encoded.

        Args:
            tensors: by the names of this encoder's ``state_dict()``.
        """
        state = self._text_state()
        read = ((k, tensors["model." + k].to(v.dtype)) for k, v in sorted(state.items()))
        self._fingerprint = (_version(state), self._digest(read))

    def _text_state(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {k: v for k, v in state.items() if not k.startswith(("visual.", "logit_"))}

    def _digest(self, weights: Iterable[tuple[str, Tensor]]) -> str:
        described = {k: self._config.get(k) for k in ("embed_dim", "quick_gelu", "text_cfg")}
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name, value in weights:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def tokenize(self, prompts: list[str]) -> Tensor:
        """(P, context) token ids."""
        if self._tokenizer is None:
            self._tokenizer = _tokenizer_for(self._config)
        return self._tokenizer(prompts)

    @property
    def trims_text(self) -> bool:
        """Whether the text tower is causal and answers at the highest token id, the end."""
        model = self.model
        pooling = getattr(model, "text_pool_type", None)
        return (
            isinstance(model, open_clip.CLIP)
            and pooling == "argmax"
            and model.attn_mask is not None
        )

    def _batches_of_equal_length(self, tokens: Tensor) -> list[tuple[int, Tensor]]:
        """(length, rows) for all prompts; the full context where the tower cannot be trimmed."""
        context = tokens.shape[1]
        ends = tokens.argmax(dim=1) + 1 if self.trims_text else torch.full((len(tokens),), context)
        groups: dict[int, list[int]] = defaultdict(list)
        for row, length in enumerate(ends.tolist()):
            groups[length].append(row)
        return [
            (length, torch.tensor(rows[start : start + self.text_batch], device=tokens.device))
            for length, rows in sorted(groups.items())
            for start in range(0, len(rows), self.text_batch)
        ]

    def text_features(self, tokens: Tensor) -> Tensor:
        """(P, length) token ids -> (P, D), not normalised: ``encode_text`` at any length."""
        model = self.model
        if not self.trims_text:
            return model.encode_text(tokens)
        length = tokens.shape[1]
        dtype = model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens).to(dtype)  # (P, length, width)
        x = x + model.positional_embedding[:length].to(dtype)
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        x = text_global_pool(model.ln_final(x), tokens, model.text_pool_type)  # (P, width)
        projection = model.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    # ---------------------------------------------------------------- images

    def encode_image(
        self, pixels: Tensor, *, layers: Sequence[int] = (), semantics: Semantics = "released"
    ) -> ClipTokens:
        """Tokens of whole photos (sec. 3.1).

        Args:
            pixels: (B, 3, h, w) uint8 or float, RGB in 0..255, the resized photos.
            layers: 1-based layers whose patch tokens to keep.
            semantics: how the photo comes to the tower's size, see :meth:`preprocess`.

        Raises:
            InputError: the pixels' shape is wrong or a layer does not exist.
        """
        absent = [layer for layer in layers if not 1 <= layer <= self.depth]
        if absent:
            raise InputError(f"this CLIP has layers 1 to {self.depth}, not {absent}")
        patches: dict[int, Tensor] = {}
        cls: dict[int, Tensor] = {}

        def keep(tokens: Tensor, layer: int) -> Tensor:  # (B, 1 + N, V)
            cls[layer] = tokens[:, 0].clone()  # a copy, so that the other tokens can be freed
            if layer in layers:
                patches[layer] = tokens[:, 1:]
            return tokens

        images = self.preprocess(pixels, semantics=semantics)
        pooled = self._run(images, keep, every_layer=True)
        return ClipTokens(patches, cls, grids=dict.fromkeys(patches, self.grid), pooled=pooled)

    def encode_regions(
        self, regions: Regions, context: ClipTokens | None = None, edit: TokenEdit | None = None
    ) -> Tensor:
        """Features of masked crops in the joint space (eq. 4; eq. 5 with an edit).

        Args:
            regions: ``regions.pixels`` is (R, 3, S, S), normalised, S = ``region_size``.
            context: not needed by this encoder.
            edit: called with the patch tokens before the first block (layer 0) and after each.

        Returns:
            (R, D) float32, unit norm.

        Raises:
            InputError: the crops are not of the tower's size.
        """
        S = self.region_size
        if regions.pixels.shape[1:] != (3, S, S):
            raise InputError(
                f"crops must be (R, 3, {S}, {S}) for this CLIP, not {tuple(regions.pixels.shape)}"
            )
        if regions.pixels.shape[0] == 0:  # not len(): the number may be a symbol (export)
            return torch.zeros(0, self.joint_width, device=self._device)

        def change(tokens: Tensor, layer: int) -> Tensor:  # (R, 1 + N, V)
            if edit is None:
                return tokens
            before = tokens[:, 1:]
            after = edit(before, layer, regions, self.grid)
            return tokens if after is before else torch.cat([tokens[:, :1], after], dim=1)

        return self._run(regions.pixels.to(self._device), change, every_layer=False)

    def preprocess(self, pixels: Tensor, *, semantics: Semantics = "released") -> Tensor:
        """Photos -> what the tower takes, (B, 3, S, S), normalised, aspect not kept.

        ``"released"``: normalise, pad with zeros to the right and below to a multiple of 32, resize
        by nearest neighbour, padding included. ``"paper"``: resize the photo itself by bicubic
        interpolation with antialiasing, then normalise (``docs/decisions/0010-clip-input.md``).

        Args:
            pixels: (B, 3, h, w) uint8 or float, RGB in 0..255.
            semantics: as above.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
            raise InputError(f"pixels must be (B, 3, h, w), not {tuple(pixels.shape)}")
        size = (self.region_size, self.region_size)
        pixels = pixels.to(self._device).float()
        if semantics == "paper":
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255)
        mean = 255.0 * torch.tensor(self.pixel_mean, device=self._device)[:, None, None]
        std = 255.0 * torch.tensor(self.pixel_std, device=self._device)[:, None, None]
        x = (pixels - mean) / std
        if semantics == "released":
            x = F.pad(x, (0, -x.shape[-1] % PAD_TO, 0, -x.shape[-2] % PAD_TO))
            x = F.interpolate(x, size, mode="nearest")
        return x

    def _run(
        self, images: Tensor, visit: Callable[[Tensor, int], Tensor], *, every_layer: bool
    ) -> Tensor:
        """The tower by hand; ``visit`` sees the tokens after each block and may change them.

        Args:
            images: (B, 3, S, S), normalised.
            visit: called with (B, 1 + N, V) tokens, [CLS] first, and the 1-based layer (0: before
                the first block); returns the tokens to go on with.
            every_layer: ``visit`` reads the tokens after the last block too; without it, patch
                tokens that nobody reads any more need not be computed.

        Returns:
            (B, D) float32, unit norm.
        """
        visual = self.model.visual
        transformer = visual.transformer
        tokens = visit(visual._embeds(images.to(visual.conv1.weight.dtype)), 0)  # (B, 1 + N, V)
        if quick_vit.applies(visual) and (not every_layer or self.precision != torch.float32):
            pooled = quick_vit.run_blocks(visual, tokens, visit, every_layer=every_layer)
            return F.normalize(pooled.float(), dim=-1)
        for layer, block in enumerate(transformer.resblocks, start=1):
            x = tokens if transformer.batch_first else tokens.transpose(0, 1).contiguous()
            if transformer.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            tokens = visit(x if transformer.batch_first else x.transpose(0, 1), layer)
        pooled, _ = visual._pool(tokens)
        if visual.proj is not None:
            pooled = pooled @ visual.proj
        return F.normalize(pooled.float(), dim=-1)

    @property
    def _device(self) -> torch.device:
        return self.model.visual.conv1.weight.device

    @property
    def precision(self) -> torch.dtype:
        """Type of the weights of the image tower's matrix products."""
        return self.model.visual.transformer.resblocks[0].mlp.c_fc.weight.dtype

    def use_bfloat16(self) -> OpenClipEncoder:
        """Take bfloat16 for the image tower's matrix products; inference only from then on.

        Tokens, norms and sums stay in float32 (``docs/decisions/0055-precision.md``).

        Raises:
            InputError: the blocks are not open_clip's default ones.
        """
        with torch.no_grad():
            if not quick_vit.applies(self.model.visual):
                raise InputError("this CLIP's blocks are not open_clip's plain ones: keep float32")
            quick_vit.products_in(self.model.visual, torch.bfloat16)
        return self


# --------------------------------------------------------------------------------------
# Names, tags and configurations
# --------------------------------------------------------------------------------------


def pretrained_config(architecture: str | Mapping[str, Any], tag: str) -> dict[str, Any]:
    """open_clip's record of published weights: ``mean``, ``std``, ``hf_hub``, ...

    Refuses a name whose activation is not the one that the weights were trained with: OpenAI's, for
    example, need the ``-quickgelu`` architectures.

    Args:
        architecture: a name of ``open_clip.list_models()``.
        tag: a name of ``open_clip.list_pretrained_tags_by_model(architecture)``.

    Raises:
        InputError: there is no such pair, or the activations differ; names the right one.
    """
    if not isinstance(architecture, str):
        raise InputError("weight tags belong to named architectures: give a name, or no tag")
    quick = bool(_configuration(architecture).get("quick_gelu", False))
    plain = architecture.removesuffix("-quickgelu")
    found = get_pretrained_cfg(architecture, tag)
    trained_quick = bool((found or get_pretrained_cfg(plain, tag)).get("quick_gelu", False))
    right = plain + "-quickgelu" if trained_quick else plain
    if get_pretrained_cfg(right, tag) and quick != trained_quick:
        activation = "QuickGELU" if trained_quick else "plain GELU"
        raise InputError(f"the {tag!r} weights were trained with {activation}: use {right!r}")
    if not found:
        tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none"
        raise InputError(f"{architecture!r} has no weights {tag!r}; it has: {tags}")
    return dict(found)


def hub_repository(architecture: str, tag: str) -> str:
    """The hub repository, "owner/name", that holds these weights in the layout of ``from_folder``.

    Raises:
        InputError: there is no such pair, or its weights are not on the hub.
    """
    place = pretrained_config(architecture, tag).get("hf_hub", "")
    if not place:
        raise InputError(f"the weights {tag!r} of {architecture!r} are not on the hub")
    return "/".join(place.split("/")[:2])


def _version(state: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Changes when any of these tensors is replaced or written to."""
    return [(v.data_ptr(), 0 if v.is_inference() else v._version) for v in state.values()]


def _configuration(architecture: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(architecture, str):
        return dict(architecture)
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise InputError(
            f"open_clip has no architecture {architecture!r}: see open_clip.list_models()"
        )
    return config


def _build(config: Mapping[str, Any]) -> Any:
    """A model with random weights; on the meta device (``torch.device("meta")``) without any."""
    arguments = {k: v for k, v in config.items() if k not in ("custom_text", "multimodal_cfg")}
    if "multimodal_cfg" in config or "hf_model_name" in config.get("text_cfg", {}):
        raise InputError(
            "CoCa models and text towers from the hub are not supported: choose a CLIP"
        )
    if "timm_model_name" in config["vision_cfg"] or not isinstance(
        config["vision_cfg"]["layers"], int
    ):
        raise InputError(
            "the vision tower must be open_clip's own ViT: choose a ViT-*/14, /16 or /32"
        )
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = kind(**arguments)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta and name.endswith("attn_mask"):
            # not in the state dict, so loading weights would never bring it to life
            owner = model.get_submodule(name.rpartition(".")[0])
            mask = torch.full(buffer.shape, float("-inf"), device="cpu").triu_(1)
            owner.register_buffer("attn_mask", mask, persistent=False)
    return model


def _check_tower(architecture: object, config: Mapping[str, Any], model: Any) -> None:
    visual = getattr(model, "visual", None)
    if not isinstance(visual, VisionTransformer):
        raise InputError(f"{architecture!r} has no open_clip ViT: choose a ViT-*/14, /16 or /32")
    if visual.image_size[0] != visual.image_size[1]:
        raise InputError(f"the vision tower must take square images, not {visual.image_size}")
    if not isinstance(visual.patch_dropout, nn.Identity):
        raise InputError("patch dropout hides tokens that must be seen: build with patch_dropout=0")
    quick = any(isinstance(part, QuickGELU) for part in visual.modules())
    if quick != bool(config.get("quick_gelu", False)):
        raise InputError(
            f"{architecture!r} and the model given differ in activation: "
            f"{'use' if quick else 'do not use'} a -quickgelu architecture"
        )


def _tokenizer_for(config: Mapping[str, Any]) -> Callable[[list[str]], Tensor]:
    text = config.get("text_cfg", {})
    if text.get("hf_tokenizer_name"):
        raise InputError("this CLIP has a tokenizer of its own: pass it as tokenizer=")
    return open_clip.SimpleTokenizer(
        context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
    )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = (float(v) for v in values)
    return first, second, third
