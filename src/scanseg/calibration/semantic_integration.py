"""Semantic Integration Module: proposal embeddings meet the frozen CLIP (SCAN sec. 3.1, eq. 1-3).

Three steps, each switchable (tables 4 and 5):

1. eq. 1, low-frequency enhancement of the patch tokens of some CLIP layers;
2. eq. 2, cross-attention from the proposals to those tokens;
3. eq. 3, ``gamma`` times the image's final [CLS] is added, then a transformer encoder.

Paper and released code build steps 1 to 3 differently; :class:`SemanticIntegrationConfig` has one
switch for each difference and two sets of defaults. They decide which parameters exist, so they
belong to the weights, unlike ``InferenceSettings.semantics``.

Parameters (what a converter maps to): ``lfe.conv1``, ``lfe.conv2``, ``token_projection.fc1``,
``token_projection.fc2``, ``attention.i``, ``norms.i``, ``gamma`` (1,), ``encoder.layers.i``. Where
the layers of the vision tower differ in width, as in a convolutional one, each has its own
``lfe.i`` and ``token_projection.i``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scanseg.contracts import ClipTokens, InputError, Semantics

_DEFAULTS: dict[str, dict[str, int | bool]] = {
    "released": {
        "lfe_convolutions": 2,
        "token_projection": True,
        "attention_layers": 5,
        "attention_residual": True,
        "encoder_layers": 5,
        "proposals_interact": False,
    },
    "paper": {
        "lfe_convolutions": 1,
        "token_projection": False,
        "attention_layers": 1,
        "attention_residual": False,
        "encoder_layers": 1,
        "proposals_interact": True,
    },
}


@dataclass(frozen=True)
class SemanticIntegrationConfig:
    """Structure of the module: every row of tables 4 and 5, and every paper/release difference.

    Fields that are ``None`` take the default of ``semantics``, so after construction none is.

    Args:
        semantics: whose defaults the fields below take (``docs/decisions/0011`` to ``0013``).
        layers: 1-based CLIP layers whose patch tokens are read (table 5), shallow to deep.
        sigmas: cutoff of the low-frequency enhancement for each of them, in frequency bins.
        use_cls: add ``gamma`` times the final [CLS] (table 4, column F_CLS).
        use_spatial: attend to patch tokens (table 4, column F_HW).
        low_frequency: enhance them first (table 4, column LFE).
        heads: attention heads, both in eq. 2 and eq. 3.
        encoder_width: hidden width of the encoder's feed-forward layers.
        dropout: of the encoder layers, in [0, 1); there is none in the cross-attention.
        gamma: initial value of the learnable factor of eq. 3.
        lfe_convolutions: 1 (eq. 1: conv, ReLU) or 2 (released: conv, ReLU, conv).
        token_projection: two linear maps V -> D -> D, without an activation, before eq. 2.
        attention_layers: how often eq. 2 is applied.
        attention_residual: ``x + MHA(x)`` with a LayerNorm after each but the last, instead of
            ``MHA(x)``.
        encoder_layers: layers of eq. 3's transformer encoder.
        proposals_interact: the encoder sees the proposals of an image as one sequence; otherwise
            each proposal is a sequence of length one.

    Raises:
        InputError: a field is out of range, or both sources are off (then leave the module out).
    """

    semantics: Semantics = "released"
    layers: tuple[int, ...] = (12, 18, 24)
    sigmas: tuple[float, ...] = (9.0, 7.0, 3.0)
    use_cls: bool = True
    use_spatial: bool = True
    low_frequency: bool = True
    heads: int = 8
    encoder_width: int = 2048
    dropout: float = 0.1
    gamma: float = 0.1
    lfe_convolutions: int | None = None
    token_projection: bool | None = None
    attention_layers: int | None = None
    attention_residual: bool | None = None
    encoder_layers: int | None = None
    proposals_interact: bool | None = None

    def __post_init__(self) -> None:
        if self.semantics not in _DEFAULTS:
            raise InputError(f"semantics must be 'released' or 'paper', not {self.semantics!r}")
        for name, default in _DEFAULTS[self.semantics].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        object.__setattr__(self, "sigmas", tuple(float(sigma) for sigma in self.sigmas))
        if not (self.use_cls or self.use_spatial):
            raise InputError(
                "use_cls and use_spatial are both off: build the model without semantic integration"
            )
        if self.use_spatial and not self.layers:
            raise InputError("use_spatial needs at least one CLIP layer in layers")
        if len(self.layers) != len(self.sigmas):
            raise InputError(
                f"layers and sigmas must pair up, not {len(self.layers)} and {len(self.sigmas)}"
            )
        if any(sigma <= 0 for sigma in self.sigmas):
            raise InputError(f"sigmas must be positive, not {self.sigmas}")
        if self.lfe_convolutions not in (1, 2):
            raise InputError(f"lfe_convolutions must be 1 or 2, not {self.lfe_convolutions}")
        if self.attention_layers < 1 or self.encoder_layers < 0:  # type: ignore[operator]
            raise InputError("attention_layers must be at least 1 and encoder_layers at least 0")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout must lie in [0, 1), not {self.dropout!r}")


class SemanticIntegration(nn.Module):
    """Pull proposal embeddings towards the image's CLIP semantics (sec. 3.1, eq. 1-3).

    Args:
        config: structure.
        joint_width: D of the proposal embeddings and of ``ClipTokens.pooled``.
        vision_widths: V of each layer of ``config.layers``, or one number for all of them.

    Raises:
        InputError: the widths do not fit the configuration.
    """

    def __init__(
        self,
        config: SemanticIntegrationConfig,
        *,
        joint_width: int,
        vision_widths: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.config = config
        self.joint_width = joint_width
        if joint_width % config.heads:
            raise InputError(f"heads = {config.heads} must divide the joint width {joint_width}")
        if config.use_spatial:
            self._build_spatial_path(_one_per_layer(vision_widths, config.layers))
        if config.use_cls:
            self.gamma = nn.Parameter(torch.full((1,), config.gamma))
        self.encoder = _Encoder(config, joint_width)

    def _build_spatial_path(self, widths: tuple[int, ...]) -> None:
        config, D = self.config, self.joint_width
        same = len(set(widths)) == 1
        if not (same or config.token_projection):
            raise InputError(
                f"vision widths differ between layers {widths}: set token_projection=True"
            )
        if config.low_frequency:
            enhancers = [
                LowFrequencyEnhancement(V, convolutions=config.lfe_convolutions or 2)
                for V in (widths[:1] if same else widths)
            ]
            self.lfe = enhancers[0] if same else nn.ModuleList(enhancers)
        if config.token_projection:
            projections = [_TokenProjection(V, D) for V in (widths[:1] if same else widths)]
            self.token_projection = projections[0] if same else nn.ModuleList(projections)
        memory_width = D if config.token_projection else widths[0]
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(
                D, config.heads, kdim=memory_width, vdim=memory_width, batch_first=True
            )
            for _ in range(config.attention_layers or 1)
        )
        between = len(self.attention) - 1 if config.attention_residual else 0
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(between))

    @property
    def required_layers(self) -> tuple[int, ...]:
        """CLIP layers whose patch tokens ``forward`` reads; what to ask ``encode_image`` for."""
        return self.config.layers if self.config.use_spatial else ()

    def forward(
        self, embeddings: Tensor, clip: ClipTokens, *, memory: Tensor | None = None
    ) -> Tensor:
        """Calibrate proposal embeddings.

        Args:
            embeddings: (B, Q, D) embeddings of the mask decoder, any length.
            clip: frozen tokens of the same images, with ``required_layers`` in ``clip.patches``.
            memory: the result of :meth:`memory` for the same ``clip``; computed when absent.
                Passing it saves work when several decoder layers are calibrated (training).

        Returns:
            (B, Q, D) calibrated embeddings, not normalised. Embeddings, not logits.

        Raises:
            InputError: shapes disagree, or a required layer is missing.
        """
        B, _, D = self._checked_shape(embeddings, clip)
        x = embeddings
        if self.config.use_spatial:
            x = self.inject(x, self.memory(clip, dtype=x.dtype) if memory is None else memory)
        if self.config.use_cls:
            x = x + self.gamma * clip.pooled.to(x.dtype)[:, None]  # eq. 3, (B, Q, D)
        if self.config.proposals_interact:
            return self.encoder(x)
        return self.encoder(x.reshape(-1, 1, D)).reshape(B, -1, D)

    def memory(self, clip: ClipTokens, *, dtype: torch.dtype | None = None) -> Tensor:
        """F_s of eq. 2: enhanced (eq. 1) and projected patch tokens, layer after layer.

        Returns:
            (B, sum of N over the layers, D), or V instead of D without ``token_projection``.
        """
        per_layer = []
        for index, (layer, sigma) in enumerate(
            zip(self.config.layers, self.config.sigmas, strict=True)
        ):
            tokens = clip.patches[layer]
            if self.config.low_frequency:
                grid = tokens.transpose(1, 2).reshape(
                    len(tokens), -1, *clip.grids[layer]
                )  # (B, V, gy, gx)
                tokens = _pick(self.lfe, index)(grid, sigma).flatten(2).transpose(1, 2)  # (B, N, V)
            tokens = tokens if dtype is None else tokens.to(dtype)
            if self.config.token_projection:
                tokens = _pick(self.token_projection, index)(tokens)  # (B, N, D)
            per_layer.append(tokens)
        return torch.cat(per_layer, dim=1)

    def inject(self, embeddings: Tensor, memory: Tensor) -> Tensor:
        """F'_N = MHA(F_N, F_s, F_s), eq. 2: (B, Q, D) attends to (B, M, D or V)."""
        x = embeddings
        for index, attention in enumerate(self.attention):
            update = attention(x, memory, memory, need_weights=False)[0]  # (B, Q, D)
            x = x + update if self.config.attention_residual else update
            if index < len(self.norms):
                x = self.norms[index](x)
        return x

    def _checked_shape(self, embeddings: Tensor, clip: ClipTokens) -> tuple[int, int, int]:
        if embeddings.ndim != 3 or embeddings.shape[-1] != self.joint_width:
            raise InputError(
                f"embeddings must be (B, Q, {self.joint_width}), not {tuple(embeddings.shape)}"
            )
        B, Q, D = embeddings.shape
        if clip.pooled.shape != (B, D):
            raise InputError(
                f"clip tokens are of another batch or encoder: pooled is "
                f"{tuple(clip.pooled.shape)}, expected ({B}, {D})"
            )
        missing = [layer for layer in self.required_layers if layer not in clip.patches]
        if missing:
            raise InputError(
                f"CLIP layers {missing} were not kept: "
                f"call encode_image(layers={self.required_layers})"
            )
        return B, Q, D


# --------------------------------------------------------------------------------------
# Eq. 1
# --------------------------------------------------------------------------------------


def low_frequency_gain(
    grid: tuple[int, int], sigma: float, *, device: torch.device | None = None
) -> Tensor:
    """Filter g of eq. 1: 0 at the centre of the grid, rising as a Gaussian around it.

    ``g(y, x) = 1 - exp(-((y - h // 2)^2 + (x - w // 2)^2) / (2 sigma^2))``

    It multiplies an *unshifted* spectrum, whose centre holds the high frequencies and whose corner
    (0, 0) holds the mean. The mean is damped too: on a 14 x 14 grid its gain is 0.454, 0.632 and
    0.996 for sigma 9, 7 and 3.

    Args:
        grid: (rows, columns).
        sigma: cutoff in frequency bins.
        device: where to put the result.

    Returns:
        (rows, columns) float32 in [0, 1).
    """
    rows, columns = grid
    y = torch.arange(rows, device=device) - rows // 2
    x = torch.arange(columns, device=device) - columns // 2
    squared = (y[:, None] ** 2 + x[None, :] ** 2).float()  # (rows, columns)
    return 1.0 - torch.exp(-squared / (2.0 * sigma**2))


def low_frequency_enhancement(
    features: Tensor, sigma: float, transform: Callable[[Tensor], Tensor]
) -> Tensor:
    """Eq. 1: ``F_s = IFFT(transform(FFT(F) * g)) + F`` (real part), in float32 under any autocast.

    Args:
        features: (B, V, rows, columns) feature map of one CLIP layer.
        sigma: cutoff of :func:`low_frequency_gain`.
        transform: what the paper writes as ReLU(Conv(.)): takes and returns the spectrum as
            (B, 2V, rows, columns) real numbers, the V real parts first.

    Returns:
        (B, V, rows, columns), of the dtype of ``features``.
    """
    with torch.autocast(features.device.type, enabled=False):
        F_HW = features.float()
        g = low_frequency_gain(
            (features.shape[-2], features.shape[-1]), sigma, device=features.device
        )
        spectrum = torch.fft.fft2(F_HW) * g  # (B, V, rows, columns) complex
        changed = transform(torch.cat([spectrum.real, spectrum.imag], dim=1)).float()
        real, imaginary = changed.chunk(2, dim=1)
        F_s = torch.fft.ifft2(torch.complex(real, imaginary)).real + F_HW
    return F_s.to(features.dtype)


class LowFrequencyEnhancement(nn.Module):
    """Eq. 1 with its learned 1 x 1 convolutions over real and imaginary channels.

    Args:
        vision_width: V.
        convolutions: 1 (eq. 1: conv, ReLU) or 2 (released: conv, ReLU, conv).
    """

    def __init__(self, vision_width: int, *, convolutions: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * vision_width, 2 * vision_width, kernel_size=1)
        self.conv2 = (
            nn.Conv2d(2 * vision_width, 2 * vision_width, kernel_size=1)
            if convolutions == 2
            else nn.Identity()
        )

    def forward(self, features: Tensor, sigma: float) -> Tensor:
        """Enhance (B, V, rows, columns); the same weights serve every layer and sigma."""
        return low_frequency_enhancement(features, sigma, self._transform)

    def _transform(self, spectrum: Tensor) -> Tensor:
        hidden = self.conv1(spectrum.to(self.conv1.weight.dtype))
        return self.conv2(torch.relu(hidden))


# --------------------------------------------------------------------------------------
# Parts
# --------------------------------------------------------------------------------------


class _TokenProjection(nn.Module):
    """V -> D -> D without an activation, as released."""

    def __init__(self, vision_width: int, joint_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, joint_width)
        self.fc2 = nn.Linear(joint_width, joint_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, V) -> (B, N, D)."""
        return self.fc2(self.fc1(tokens))


class _Encoder(nn.Module):
    """Post-norm transformer encoder of eq. 3, each layer with its own initial values."""

    def __init__(self, config: SemanticIntegrationConfig, joint_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                joint_width,
                config.heads,
                dim_feedforward=config.encoder_width,
                dropout=config.dropout,
                batch_first=True,
            )
            for _ in range(config.encoder_layers or 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, length, D) -> the same."""
        for layer in self.layers:
            x = layer(x)
        return x


def _one_per_layer(widths: int | Sequence[int], layers: Sequence[int]) -> tuple[int, ...]:
    found = (widths,) * len(layers) if isinstance(widths, int) else tuple(widths)
    if len(found) != len(layers):
        raise InputError(f"{len(layers)} CLIP layers need as many vision widths, not {len(found)}")
    return found


def _pick(shared_or_list: nn.Module, index: int) -> nn.Module:
    """The part for layer ``index``: one for all, or one for each."""
    return shared_or_list[index] if isinstance(shared_or_list, nn.ModuleList) else shared_or_list
