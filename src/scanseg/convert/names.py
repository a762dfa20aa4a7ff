"""Tables of names: how checkpoints of others call their weights, and how we do.

A rule is a pattern of the whole name and what becomes of it: one target (renamed), three targets
(split in three along the first axis: query, key, value) or none (ignored, with the reason).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """What becomes of the weights whose names match.

    Args:
        pattern: regular expression for the whole name.
        targets: templates for ``re.Match.expand``; none means "ignored".
        reason: why it is ignored.
    """

    pattern: str
    targets: tuple[str, ...] = ()
    reason: str = ""

    def apply(self, name: str) -> tuple[str, ...] | None:
        """Our names for ``name``, or ``None`` if the rule is about other weights."""
        match = re.fullmatch(self.pattern, name)
        return None if match is None else tuple(match.expand(t) for t in self.targets)


def find_rule(name: str, rules: Sequence[Rule]) -> tuple[Rule, tuple[str, ...]] | None:
    """The first rule about ``name`` and our names for it."""
    for rule in rules:
        targets = rule.apply(name)
        if targets is not None:
            return rule, targets
    return None


MASK2FORMER = "proposals.model."
PIXELS = MASK2FORMER + "pixel_level_module."
SWIN = PIXELS + "encoder.swin."
DECODER = MASK2FORMER + "transformer_module."

_WB = r"(weight|bias)"
_REDUNDANT = "recomputed from the window size"


def _heads(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{part}_proj.\\g<end>" for part in "qkv")


def swin_rules(prefix: str, *, downsample_shift: int = 0) -> tuple[Rule, ...]:
    """Rules for a Swin transformer in the layout of its authors or of timm.

    Args:
        prefix: in front of every name, as a regular expression.
        downsample_shift: timm keeps the downsampling that follows stage i in stage i + 1.
    """
    block = prefix + r"layers\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\."
    ours = SWIN + r"encoder.layers.\g<stage>.blocks.\g<block>."
    end = r"(?P<end>weight|bias)"
    downsample = [
        Rule(
            prefix + rf"layers\.{stage + downsample_shift}\.downsample\.(reduction|norm)\.{_WB}",
            (SWIN + rf"encoder.layers.{stage}.downsample.\1.\2",),
        )
        for stage in range(3)
    ]
    return (
        Rule(
            prefix + rf"patch_embed\.proj\.{_WB}",
            (SWIN + r"embeddings.patch_embeddings.projection.\1",),
        ),
        Rule(prefix + rf"patch_embed\.norm\.{_WB}", (SWIN + r"embeddings.norm.\1",)),
        Rule(block + r"norm1\." + end, (ours + r"layernorm_before.\g<end>",)),
        Rule(block + r"norm2\." + end, (ours + r"layernorm_after.\g<end>",)),
        Rule(block + r"attn\.qkv\." + end, _heads(ours + "attention")),
        Rule(block + r"attn\.proj\." + end, (ours + r"attention.o_proj.\g<end>",)),
        Rule(
            block + r"attn\.relative_position_bias_table",
            (ours + "attention.relative_position_bias.relative_position_bias_table",),
        ),
        Rule(block + r"mlp\.(?P<linear>fc[12])\." + end, (ours + r"mlp.\g<linear>.\g<end>",)),
        *downsample,
        Rule(block + r"attn\.relative_position_index", reason=_REDUNDANT),
        Rule(block + r"attn_mask", reason=_REDUNDANT),
    )


SCAN_RULES: tuple[Rule, ...] = (
    *swin_rules(r"backbone\."),
    *(
        Rule(
            rf"backbone\.norm{stage}\.{_WB}",
            (PIXELS + rf"encoder.hidden_states_norms.stage{stage + 1}.\1",),
        )
        for stage in range(4)
    ),
    *(
        Rule(r"sem_seg_head\.pixel_decoder\." + pattern, (PIXELS + "decoder." + target,))
        for pattern, target in (
            (rf"input_proj\.(\d+)\.([01])\.{_WB}", r"input_projections.\1.\2.\3"),
            (rf"mask_features\.{_WB}", r"mask_projection.\1"),
            (r"(adapter|layer)_1\.weight", r"\1_1.0.weight"),
            (rf"(adapter|layer)_1\.norm\.{_WB}", r"\1_1.1.\2"),
            (r"transformer\.level_embed", "level_embed"),
            (
                r"transformer\.encoder\.layers\.(\d+)\.self_attn\."
                rf"(sampling_offsets|attention_weights|value_proj|output_proj)\.{_WB}",
                r"encoder.layers.\1.self_attn.\2.\3",
            ),
            (
                rf"transformer\.encoder\.layers\.(\d+)\.linear([12])\.{_WB}",
                r"encoder.layers.\1.fc\2.\3",
            ),
            (
                rf"transformer\.encoder\.layers\.(\d+)\.norm1\.{_WB}",
                r"encoder.layers.\1.self_attn_layer_norm.\2",
            ),
            (
                rf"transformer\.encoder\.layers\.(\d+)\.norm2\.{_WB}",
                r"encoder.layers.\1.final_layer_norm.\2",
            ),
        )
    ),
    Rule(
        r"sem_seg_head\.predictor\.transformer_self_attention_layers\.(?P<layer>\d+)\."
        r"self_attn\.in_proj_(?P<end>weight|bias)",
        _heads(DECODER + r"decoder.layers.\g<layer>.self_attn"),
    ),
    *(
        Rule(r"sem_seg_head\.predictor\." + pattern, (DECODER + target,))
        for pattern, target in (
            (
                rf"transformer_self_attention_layers\.(\d+)\.self_attn\.out_proj\.{_WB}",
                r"decoder.layers.\1.self_attn.out_proj.\2",
            ),
            (
                rf"transformer_self_attention_layers\.(\d+)\.norm\.{_WB}",
                r"decoder.layers.\1.self_attn_layer_norm.\2",
            ),
            (
                r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\."
                r"(in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias)",
                r"decoder.layers.\1.cross_attn.\2",
            ),
            (
                rf"transformer_cross_attention_layers\.(\d+)\.norm\.{_WB}",
                r"decoder.layers.\1.cross_attn_layer_norm.\2",
            ),
            (
                rf"transformer_ffn_layers\.(\d+)\.linear([12])\.{_WB}",
                r"decoder.layers.\1.fc\2.\3",
            ),
            (
                rf"transformer_ffn_layers\.(\d+)\.norm\.{_WB}",
                r"decoder.layers.\1.final_layer_norm.\2",
            ),
            (rf"decoder_norm\.{_WB}", r"decoder.layernorm.\1"),
            (
                rf"mask_embed\.layers\.(\d+)\.{_WB}",
                r"decoder.mask_predictor.mask_embedder.\1.0.\2",
            ),
            (r"query_embed\.weight", "queries_embedder.weight"),
            (r"query_feat\.weight", "queries_features.weight"),
            (r"level_embed\.weight", "level_embed.weight"),
        )
    ),
    Rule(
        rf"sem_seg_head\.predictor\.class_embed\.layers\.0\.{_WB}",
        (r"proposals.embedding_head.fc1.\1",),
    ),
    Rule(
        rf"sem_seg_head\.predictor\.class_embed\.layers\.1\.{_WB}",
        (r"proposals.embedding_head.fc2.\1",),
    ),
    Rule(r"clip_adapter\.clip_model\.attn_mask", reason="causal mask, made from the text length"),
    Rule(r"clip_adapter\.clip_model\.(.+)", (r"region_clip.model.\1",)),
    Rule(r"clip_adapter\.original_clip\.(.+)", (r"clip.model.visual.\1",)),
    Rule(r"clip_adapter\.non_object_embedding", ("void",)),
    Rule(rf"LFM\.(conv[12])\.{_WB}", (r"integration.lfe.\1.\2",)),
    Rule(rf"oriclip_mlp\.(fc[12])\.{_WB}", (r"integration.token_projection.\1.\2",)),
    Rule(r"fusion_decoder\.multiattn\.(\d+)\.(.+)", (r"integration.attention.\1.\2",)),
    Rule(rf"fusion_decoder\.ln\.(\d+)\.{_WB}", (r"integration.norms.\1.\2",)),
    Rule(r"lightweight_transformer\.layers\.(.+)", (r"integration.encoder.layers.\1",)),
    Rule(r"learnable_weight", ("integration.gamma",)),
    Rule(r"criterion\.empty_weight", reason="class weights of the training loss"),
    Rule(r"(clip_adapter\.)?pixel_(mean|std)", reason="normalisation constants, part of the code"),
)
"""A SCAN segmentation model as its authors release it."""

FINETUNED_CLIP_PREFIX = re.compile(r"(module\.)?clip_model\.")
"""In front of the weights of a fine-tuned region CLIP."""

OPEN_CLIP_RULES: tuple[Rule, ...] = (
    Rule(r"attn_mask", reason="causal mask, made from the text length"),
    Rule(r"visual\.(.+)", (r"region_clip.model.visual.\1",)),
    Rule(
        r"(positional_embedding|text_projection|logit_scale|logit_bias|token_embedding\.weight"
        r"|(?:transformer|ln_final)\..+)",
        (r"region_clip.model.\1",),
    ),
)
"""An OpenCLIP model; its image tower also becomes the frozen ``clip.``."""

_SWIN_HEAD = (
    Rule(
        r"norm\.(weight|bias)", reason="norm before the classifier; stages get norms of their own"
    ),
    Rule(r"head\..+", reason="ImageNet classifier"),
)
SWIN_RULES: tuple[Rule, ...] = (*swin_rules(""), *_SWIN_HEAD)
"""A Swin transformer as its authors release it."""

TIMM_SWIN_RULES: tuple[Rule, ...] = (*swin_rules("", downsample_shift=1), *_SWIN_HEAD)
"""A Swin transformer of timm."""

_HUB_BLOCK = r"swin\.encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_OUR_BLOCK = SWIN + r"encoder.layers.\1.blocks.\2."
HUB_SWIN_RULES: tuple[Rule, ...] = (
    *(
        Rule(pattern, (target,))
        for pattern, target in (
            (r"swin\.embeddings\.(.+)", SWIN + r"embeddings.\1"),
            (
                _HUB_BLOCK + r"(layernorm_before|layernorm_after)\.(.+)",
                _OUR_BLOCK + r"\3.\4",
            ),
            (_HUB_BLOCK + rf"attention\.self\.query\.{_WB}", _OUR_BLOCK + r"attention.q_proj.\3"),
            (_HUB_BLOCK + rf"attention\.self\.key\.{_WB}", _OUR_BLOCK + r"attention.k_proj.\3"),
            (_HUB_BLOCK + rf"attention\.self\.value\.{_WB}", _OUR_BLOCK + r"attention.v_proj.\3"),
            (
                _HUB_BLOCK + r"attention\.self\.relative_position_bias_table",
                _OUR_BLOCK + "attention.relative_position_bias.relative_position_bias_table",
            ),
            (_HUB_BLOCK + rf"attention\.output\.dense\.{_WB}", _OUR_BLOCK + r"attention.o_proj.\3"),
            (_HUB_BLOCK + rf"intermediate\.dense\.{_WB}", _OUR_BLOCK + r"mlp.fc1.\3"),
            (_HUB_BLOCK + rf"output\.dense\.{_WB}", _OUR_BLOCK + r"mlp.fc2.\3"),
            (
                r"swin\.encoder\.layers\.(\d+)\.downsample\.(.+)",
                SWIN + r"encoder.layers.\1.downsample.\2",
            ),
        )
    ),
    Rule(_HUB_BLOCK + r"attention\.self\.relative_position_index", reason=_REDUNDANT),
    Rule(r"swin\.layernorm\..+", reason=_SWIN_HEAD[0].reason),
    Rule(r"classifier\..+", reason="ImageNet classifier"),
)
"""A Swin transformer as transformers up to version 5.0 saved it on the hub."""
