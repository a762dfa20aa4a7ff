"""``scanseg convert``: small random checkpoints in the official layouts, and files that are none.

The official layout is built from modules of other libraries (timm's Swin, open_clip, torch), so
both sides of a conversion can be run and compared without any download.
"""

from __future__ import annotations

import json
import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from scanseg.calibration.semantic_integration import SemanticIntegration, SemanticIntegrationConfig
from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.convert import REPORT, convert
from scanseg.convert.names import SCAN_RULES, find_rule
from scanseg.encoders.open_clip import OpenClipEncoder
from scanseg.proposals.mask2former import Mask2FormerProposals
from scanseg.weights import CONFIG, NOTICE, load_folder, load_into

D, V, WIDTH, QUERIES = 64, 64, 32, 5
SWIN = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
CLIP = {
    "embed_dim": D,
    "vision_cfg": {"image_size": 16, "layers": 4, "width": V, "head_width": 64, "patch_size": 4},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2},
}


def scaled(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random values for every weight, large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.3 + (tensor.ndim == 1)
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


def swin() -> SwinTransformer:
    model = SwinTransformer(
        img_size=64, num_classes=0, strict_img_size=False, always_partition=True, **SWIN
    )
    model.load_state_dict(scaled(model.state_dict(), 1), strict=False)
    return model.eval()


def clip(seed: int) -> Any:
    model = open_clip.model.CLIP(**CLIP)
    model.load_state_dict(scaled(model.state_dict(), seed), strict=False)
    return model.eval()


def official_swin(model: SwinTransformer) -> dict[str, Tensor]:
    """As Swin's authors name it: the downsampling stands at the end of a stage."""
    state = {}
    for name, tensor in model.state_dict().items():
        for stage in (1, 2, 3):
            name = name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
        if not name.startswith("norm."):
            state[name] = tensor
    for stage, depth in enumerate(SWIN["depths"]):  # type: ignore[arg-type]
        for block in range(depth):
            index = f"layers.{stage}.blocks.{block}.attn.relative_position_index"
            state[index] = torch.zeros(16, 16, dtype=torch.int64)
    return state


class Attention(nn.Module):
    """A self- or cross-attention layer of the masked decoder, named as released."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.MultiheadAttention(WIDTH, 8))
        self.norm = nn.LayerNorm(WIDTH)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)


def linears(*widths: int) -> nn.Module:
    layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
    return nn.ModuleDict({"layers": layers})


def tree(**parts: Any) -> nn.Module:
    """Modules and parameters under names."""
    module = nn.Module()
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            module.add_module(name, part)
        else:
            module.register_parameter(name, nn.Parameter(part))
    return module


def normed_conv(inside: int, kernel: int) -> nn.Module:
    conv = nn.Conv2d(inside, WIDTH, kernel, bias=False)
    conv.add_module("norm", nn.GroupNorm(32, WIDTH))
    return conv


def deformable_layer() -> nn.Module:
    return tree(
        self_attn=tree(
            sampling_offsets=nn.Linear(WIDTH, 8 * 3 * 4 * 2),
            attention_weights=nn.Linear(WIDTH, 8 * 3 * 4),
            value_proj=nn.Linear(WIDTH, WIDTH),
            output_proj=nn.Linear(WIDTH, WIDTH),
        ),
        norm1=nn.LayerNorm(WIDTH),
        linear1=nn.Linear(WIDTH, 48),
        linear2=nn.Linear(48, WIDTH),
        norm2=nn.LayerNorm(WIDTH),
    )


def mask2former() -> nn.Module:
    channels = [16, 32, 64, 128]
    return tree(
        backbone=tree(**{f"norm{i}": nn.LayerNorm(c) for i, c in enumerate(channels)}),
        sem_seg_head=tree(
            pixel_decoder=tree(
                input_proj=nn.ModuleList(
                    nn.Sequential(nn.Conv2d(c, WIDTH, 1), nn.GroupNorm(32, WIDTH))
                    for c in channels[:0:-1]
                ),
                transformer=tree(
                    level_embed=torch.zeros(3, WIDTH),
                    encoder=tree(layers=nn.ModuleList(deformable_layer() for _ in range(2))),
                ),
                mask_features=nn.Conv2d(WIDTH, WIDTH, 1),
                adapter_1=normed_conv(channels[0], 1),
                layer_1=normed_conv(WIDTH, 3),
            ),
            predictor=tree(
                transformer_self_attention_layers=nn.ModuleList(
                    Attention("self_attn") for _ in range(3)
                ),
                transformer_cross_attention_layers=nn.ModuleList(
                    Attention("multihead_attn") for _ in range(3)
                ),
                transformer_ffn_layers=nn.ModuleList(FeedForward() for _ in range(3)),
                decoder_norm=nn.LayerNorm(WIDTH),
                query_feat=nn.Embedding(QUERIES, WIDTH),
                query_embed=nn.Embedding(QUERIES, WIDTH),
                level_embed=nn.Embedding(3, WIDTH),
                class_embed=linears(WIDTH, 20, D),
                mask_embed=linears(WIDTH, WIDTH, WIDTH, WIDTH),
            ),
        ),
    )


def sim() -> nn.Module:
    return tree(
        LFM=tree(conv1=nn.Conv2d(2 * V, 2 * V, 1), conv2=nn.Conv2d(2 * V, 2 * V, 1)),
        oriclip_mlp=tree(fc1=nn.Linear(V, D), fc2=nn.Linear(D, D)),
        fusion_decoder=tree(
            multiattn=nn.ModuleList(nn.MultiheadAttention(D, 8) for _ in range(3)),
            ln=nn.ModuleList(nn.LayerNorm(D) for _ in range(2)),
        ),
        lightweight_transformer=tree(
            layers=nn.ModuleList(nn.TransformerEncoderLayer(D, 8, 72) for _ in range(2))
        ),
        learnable_weight=torch.tensor([0.1]),
    )


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def official() -> dict[str, Tensor]:
    """A SCAN segmentation model as released, at a small size."""
    visual = {
        name.removeprefix("visual."): tensor
        for name, tensor in clip(3).state_dict().items()
        if name.startswith("visual.")
    }
    return {
        **prefixed("backbone.", official_swin(swin())),
        **scaled(mask2former().state_dict(), 2),
        **prefixed("clip_adapter.clip_model.", clip(2).state_dict()),
        **prefixed("clip_adapter.original_clip.", visual),
        "clip_adapter.non_object_embedding": torch.arange(float(D)).view(1, D),
        "clip_adapter.pixel_mean": torch.zeros(1, 3, 1, 1),
        "clip_adapter.pixel_std": torch.ones(1, 3, 1, 1),
        "criterion.empty_weight": torch.ones(172),
        **scaled(sim().state_dict(), 4),
    }


def write(path: Path, state: dict[str, Any], **beside: Any) -> Path:
    torch.save({"model": state, **beside}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Tensor]:
    return official()


@pytest.fixture(scope="module")
def converted(checkpoint: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert([write(folder / "scan.pth", checkpoint, optimizer={"lr": 1.0}, iteration=3)], folder)
    return folder


# --------------------------------------------------------------------------------------
# A whole model: both sides agree
# --------------------------------------------------------------------------------------


def test_architecture_is_read_off_the_shapes(converted: Path) -> None:
    config, _ = load_folder(converted, verify=True)
    assert config["preset"] is None  # a size that was never released
    found = config["architecture"]
    assert found["clip"] == CLIP
    assert found["joint_width"] == D
    assert found["proposals"] == {
        "joint_width": D,
        "backbone": {
            "model_type": "swin",
            "image_size": 128,
            "embed_dim": 16,
            "depths": [2, 1, 1, 1],
            "num_heads": [1, 2, 2, 4],
            "window_size": 4,
            "drop_path_rate": 0.3,
        },
        "queries": QUERIES,
        "width": WIDTH,
        "heads": 8,
        "pixel_layers": 2,
        "pixel_feedforward": 48,
        "decoder_layers": 3,
        "decoder_feedforward": 40,
        "head_width": 20,
    }
    assert found["integration"]["attention_layers"] == 3
    assert found["integration"]["encoder_layers"] == 2
    assert found["integration"]["encoder_width"] == 72


@pytest.fixture(scope="module")
def proposals(converted: Path) -> Mask2FormerProposals:
    config, tensors = load_folder(converted)
    model = Mask2FormerProposals(**config["architecture"]["proposals"])
    load_into(model, tensors.part("proposals."), source="the converted model")
    return model.eval()


@torch.no_grad()
def test_swin_is_timms_swin(proposals: Mask2FormerProposals, checkpoint: dict[str, Tensor]) -> None:
    images = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    ours = proposals.backbone_features(images)
    theirs = swin().forward_intermediates(images, intermediates_only=True)
    for stage, (mine, raw) in enumerate(zip(ours, theirs, strict=True)):
        weight, bias = (checkpoint[f"backbone.norm{stage}.{end}"] for end in ("weight", "bias"))
        raw = raw.permute(0, 2, 3, 1)
        expected = F.layer_norm(raw, raw.shape[-1:], weight, bias).permute(0, 3, 1, 2)
        torch.testing.assert_close(mine, expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_self_attention_is_torchs(
    proposals: Mask2FormerProposals, checkpoint: dict[str, Tensor]
) -> None:
    layer = Attention("self_attn")
    prefix = "sem_seg_head.predictor.transformer_self_attention_layers.1."
    layer.load_state_dict(
        {n.removeprefix(prefix): t for n, t in checkpoint.items() if n.startswith(prefix)}
    )
    states, places = torch.randn(2, QUERIES, 1, WIDTH)
    expected, _ = layer.self_attn(states + places, states + places, states)  # type: ignore[operator]
    ours = proposals.model.transformer_module.decoder.layers[1].self_attn
    found, _ = ours(states, position_embeddings=places)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_embedding_head_and_mask_embedding(
    proposals: Mask2FormerProposals, checkpoint: dict[str, Tensor]
) -> None:
    states = torch.randn(1, QUERIES, WIDTH)

    def mlp(prefix: str, x: Tensor, count: int) -> Tensor:
        for index in range(count):
            name = f"sem_seg_head.predictor.{prefix}.layers.{index}."
            x = F.linear(x, checkpoint[name + "weight"], checkpoint[name + "bias"])
            x = x.relu() if index < count - 1 else x
        return x

    assert proposals.embedding_head is not None
    torch.testing.assert_close(proposals.embedding_head(states), mlp("class_embed", states, 2))
    predictor = proposals.model.transformer_module.decoder.mask_predictor
    torch.testing.assert_close(predictor.mask_embedder(states), mlp("mask_embed", states, 3))


@torch.no_grad()
def test_both_clips_are_open_clips(converted: Path) -> None:
    config, tensors = load_folder(converted)
    architecture = config["architecture"]["clip"]
    region, original = OpenClipEncoder(architecture), OpenClipEncoder(architecture, text=False)
    load_into(region, tensors.part("region_clip."), source="the converted model")
    load_into(original, tensors.part("clip."), source="the converted model")
    images, tokens = torch.randn(2, 3, 16, 16), torch.randint(1, 50, (2, 8))
    torch.testing.assert_close(region.model.encode_image(images), clip(2).encode_image(images))
    torch.testing.assert_close(region.model.encode_text(tokens), clip(2).encode_text(tokens))
    torch.testing.assert_close(original.model["visual"](images), clip(3).visual(images))


@torch.no_grad()
def test_integration_takes_every_weight(converted: Path, checkpoint: dict[str, Tensor]) -> None:
    config, tensors = load_folder(converted)
    module = SemanticIntegration(
        SemanticIntegrationConfig(**config["architecture"]["integration"]),
        joint_width=D,
        vision_widths=V,
    )
    load_into(module, tensors.part("integration."), source="the converted model")
    state = module.state_dict()
    for ours, theirs in (
        ("gamma", "learnable_weight"),
        ("lfe.conv2.weight", "LFM.conv2.weight"),
        ("token_projection.fc1.bias", "oriclip_mlp.fc1.bias"),
        ("attention.2.in_proj_weight", "fusion_decoder.multiattn.2.in_proj_weight"),
        ("norms.1.weight", "fusion_decoder.ln.1.weight"),
        ("encoder.layers.1.linear2.weight", "lightweight_transformer.layers.1.linear2.weight"),
    ):
        assert torch.equal(state[ours], checkpoint[theirs])


def test_void_is_a_vector(converted: Path) -> None:
    _, tensors = load_folder(converted)
    assert tensors["void"].tolist() == list(range(D))


def test_names_of_the_table() -> None:
    """Rows of RELEASED's table that no comparison above covers."""
    pixels, decoder = (
        "proposals.model.pixel_level_module.decoder.",
        "proposals.model.transformer_module.",
    )
    for theirs, ours in {
        "sem_seg_head.pixel_decoder.input_proj.2.1.bias": pixels + "input_projections.2.1.bias",
        "sem_seg_head.pixel_decoder.adapter_1.norm.bias": pixels + "adapter_1.1.bias",
        "sem_seg_head.pixel_decoder.layer_1.weight": pixels + "layer_1.0.weight",
        "sem_seg_head.pixel_decoder.transformer.level_embed": pixels + "level_embed",
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.5.norm1.weight": pixels
        + "encoder.layers.5.self_attn_layer_norm.weight",
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.5.linear2.weight": pixels
        + "encoder.layers.5.fc2.weight",
        "sem_seg_head.predictor.query_embed.weight": decoder + "queries_embedder.weight",
        "sem_seg_head.predictor.query_feat.weight": decoder + "queries_features.weight",
        "sem_seg_head.predictor.level_embed.weight": decoder + "level_embed.weight",
        "sem_seg_head.predictor.transformer_cross_attention_layers.9.norm.bias": decoder
        + "decoder.layers.9.cross_attn_layer_norm.bias",
        "sem_seg_head.predictor.transformer_ffn_layers.9.norm.bias": decoder
        + "decoder.layers.9.final_layer_norm.bias",
    }.items():
        found = find_rule(theirs, SCAN_RULES)
        assert found is not None
        assert found[1] == (ours,)


# --------------------------------------------------------------------------------------
# The account
# --------------------------------------------------------------------------------------


def test_every_weight_has_its_entry(converted: Path, checkpoint: dict[str, Tensor]) -> None:
    report = json.loads((converted / REPORT).read_text())
    entries = {entry["name"]: entry for entry in report["entries"]}
    assert entries.keys() == checkpoint.keys() | {"optimizer", "iteration"}
    assert all(e["reason"] for e in entries.values() if e["action"] == "ignored")
    split = entries[
        "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_bias"
    ]
    assert split["action"] == "split"
    assert [t.split(".")[-2] for t in split["targets"]] == ["q_proj", "k_proj", "v_proj"]
    ignored = {n.rpartition(".")[2] for n, e in entries.items() if e["action"] == "ignored"}
    assert ignored == {
        "relative_position_index",
        "pixel_mean",
        "pixel_std",
        "empty_weight",
        "optimizer",
        "iteration",
    }
    _, tensors = load_folder(converted)
    assert sorted(tensors) == sorted(t for e in entries.values() for t in e["targets"])
    assert report["counts"]["split"] == 2 * (5 + 3)  # Swin blocks and decoder layers


def test_converted_weights_keep_their_terms(converted: Path) -> None:
    assert "CC BY-NC 4.0" in (converted / NOTICE).read_text()
    config, _ = load_folder(converted)
    assert config["license"] == "CC-BY-NC-4.0"
    assert config["sources"][0]["file"] == "scan.pth"
    assert config["sources"][0]["sha256"] in (converted / NOTICE).read_text()


def test_command_line(
    checkpoint: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "scan.pth", checkpoint)
    assert main(["convert", str(path), "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "SCAN segmentation model" in text
    assert "recomputed from the window size" in text
    assert main(["convert", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    arguments = ["convert", str(path), "--output", str(tmp_path / "out"), "--overwrite", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["ignored"] == 8
    assert main(["convert", str(path), "--output", str(tmp_path / "o"), "--as", "swin"]) == 2
    assert "no rule knows" in capsys.readouterr().err


# --------------------------------------------------------------------------------------
# Other forms of the same
# --------------------------------------------------------------------------------------


def test_half_precision_stays_and_loads(checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in checkpoint.items()}
    half["learnable_weight"] = half["learnable_weight"].bfloat16()
    convert([write(tmp_path / "scan.pth", half)], tmp_path)
    config, tensors = load_folder(tmp_path)
    assert tensors["void"].dtype == torch.float16
    assert tensors["integration.gamma"].dtype == torch.bfloat16
    model = Mask2FormerProposals(**config["architecture"]["proposals"])
    load_into(model, tensors.part("proposals."), source="here")
    found = model.model.transformer_module.queries_features.weight
    assert found.dtype == torch.float32
    assert torch.equal(found, half["sem_seg_head.predictor.query_feat.weight"].float())


def test_fine_tuned_clip_replaces_the_region_clip_alone(
    checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    tuned = prefixed("module.clip_model.", clip(9).state_dict())
    torch.save({"state_dict": tuned, "epoch": 5}, tmp_path / "clip.pt")
    report = convert([write(tmp_path / "scan.pth", checkpoint), tmp_path / "clip.pt"], tmp_path)
    _, tensors = load_folder(tmp_path)
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert torch.equal(tensors["region_clip.model." + name], clip(9).state_dict()[name])
    assert torch.equal(tensors["clip.model." + name], clip(3).state_dict()[name])
    replaced = [e for e in report.entries if e.action == "replaced"]
    assert len(replaced) == len(tuned)
    assert {e.reason for e in replaced} == {"by clip.pt"}
    assert "replaced" in report.text()


def test_fine_tuned_clip_without_its_text_tower(
    checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    tuned = {n: t for n, t in clip(9).state_dict().items() if n.startswith("visual.")}
    torch.save({"state_dict": prefixed("module.clip_model.", tuned)}, tmp_path / "clip.pt")
    convert([tmp_path / "clip.pt", write(tmp_path / "scan.pth", checkpoint)], tmp_path)
    _, tensors = load_folder(tmp_path)
    for name, seed in (("visual.proj", 9), ("text_projection", 2)):
        assert torch.equal(tensors["region_clip.model." + name], clip(seed).state_dict()[name])


def test_old_pytorch_format(checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "scan.pth"
    torch.save({"model": checkpoint}, path, _use_new_zipfile_serialization=False)
    convert([path], tmp_path)
    assert load_folder(tmp_path, verify=True)[1]["void"].shape == (D,)


def test_mapped_files_are_mapped_anew(
    checkpoint: dict[str, Tensor], tmp_path: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanseg.convert.checkpoints._REMAP_AFTER", 300_000)
    convert([write(tmp_path / "scan.pth", checkpoint)], tmp_path)
    hashes = [load_folder(f)[0]["weights"]["sha256"] for f in (tmp_path, converted)]
    assert hashes[0] == hashes[1]


# --------------------------------------------------------------------------------------
# Starting points of training
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["authors", "timm", "hub", "safetensors"])
def test_swin_layouts(layout: str, tmp_path: Path) -> None:
    model = swin()
    head = {"norm.weight": torch.ones(128), "head.weight": torch.ones(10, 128)}
    if layout == "authors":
        mask = {"layers.0.blocks.1.attn_mask": torch.zeros(1)}
        path = write(tmp_path / "swin.pth", {**official_swin(model), **head, **mask})
    elif layout == "timm":
        path = tmp_path / "swin.pth"
        torch.save({**model.state_dict(), **head}, path)
    elif layout == "safetensors":
        path = tmp_path / "swin.safetensors"
        save_file(model.state_dict(), path)
    else:
        path = tmp_path / "swin.bin"
        torch.save(hub_swin(model), path)
    convert([path], tmp_path / "out", kind="swin")
    config, tensors = load_folder(tmp_path / "out")
    assert config["preset"] is None
    proposals = Mask2FormerProposals(
        joint_width=8, backbone=config["architecture"]["backbone"], width=32
    ).eval()
    backbone = "model.pixel_level_module.encoder.swin."
    others = [n for n in proposals.state_dict() if not n.startswith(backbone)]
    load_into(proposals, tensors.part("proposals."), source="here", may_miss=others)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = proposals.backbone_features(images)
        theirs = model.forward_intermediates(images, intermediates_only=True)
    for mine, raw in zip(ours, theirs, strict=True):
        raw = raw.permute(0, 2, 3, 1)
        expected = F.layer_norm(raw, raw.shape[-1:]).permute(0, 3, 1, 2)
        torch.testing.assert_close(mine, expected, atol=1e-3, rtol=1e-3)


def hub_swin(model: SwinTransformer) -> dict[str, Tensor]:
    """As transformers' older versions saved Swin classifiers."""
    state: dict[str, Tensor] = {
        "swin.layernorm.weight": torch.ones(128),
        "classifier.weight": torch.ones(10, 128),
    }
    renamed = (
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("patch_embed.norm", "embeddings.norm"),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.output.dense"),
        ("attn.relative", "attention.self.relative"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    )
    for name, tensor in official_swin(model).items():
        for theirs, ours in renamed:
            name = name.replace(theirs, ours)
        name = "swin." + (name if name.startswith("embeddings") else "encoder." + name)
        if "attn.qkv" in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[name.replace("attn.qkv", f"attention.self.{part}")] = piece
        elif name != "swin.encoder.norm.weight" and name != "swin.encoder.norm.bias":
            state[name] = tensor
    return state


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "plain"])
def test_open_clip_becomes_both_clips(form: str, tmp_path: Path) -> None:
    state = clip(5).state_dict()
    path = tmp_path / "clip"
    if form == "safetensors":
        save_file(state, path)
    elif form == "state_dict":
        torch.save({"epoch": 1, "state_dict": prefixed("module.", state)}, path)
    else:
        torch.save(state, path)
    convert([path], tmp_path / "out")
    config, tensors = load_folder(tmp_path / "out")
    assert config["architecture"]["clip"] == CLIP
    assert config["contains"] == ["clip", "region_clip"]
    region = OpenClipEncoder(CLIP)
    load_into(region, tensors.part("region_clip."), source="here")
    assert torch.equal(region.model.state_dict()["visual.proj"], state["visual.proj"])
    load_into(OpenClipEncoder(CLIP, text=False), tensors.part("clip."), source="here")


def test_clip_and_swin_together(tmp_path: Path) -> None:
    torch.save(clip(5).state_dict(), tmp_path / "clip.pt")
    path = write(tmp_path / "swin.pth", official_swin(swin()))
    report = convert([tmp_path / "clip.pt", path], tmp_path / "out")
    config, _ = load_folder(tmp_path / "out")
    assert config["contains"] == ["clip", "proposals", "region_clip"]
    assert [s["kind"] for s in report.sources] == ["open_clip", "swin"]
    assert "licence of the files they come from" in (tmp_path / "out" / NOTICE).read_text()


# --------------------------------------------------------------------------------------
# Files that are something else
# --------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_pickles_that_run_code_are_refused(form: str, tmp_path: Path) -> None:
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    evil = {"model": {"backbone.x": torch.ones(1)}, "extra": Malicious(f"touch {proof}")}
    if form == "zip":
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps({"extra": evil["extra"]}, protocol=2))
    with pytest.raises(InputError, match=r"refused.*could run code") as raised:
        convert([path], tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert "system" in str(raised.value)
    assert not proof.exists()
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path, checkpoint: dict[str, Tensor]) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message) as raised:
            convert([path], tmp_path / "out")
        assert "\n" not in str(raised.value)
        assert str(path) in str(raised.value) or path.name in str(raised.value)

    refused(tmp_path / "none.pth", "no checkpoint")
    refused(tmp_path, "is a folder")
    path = tmp_path / "file"
    for content in (b"", b"hello, I am no checkpoint", b"\x89PNG\r\n"):
        path.write_bytes(content)
        refused(path, "neither a PyTorch nor a safetensors")
    whole = write(tmp_path / "whole.pth", checkpoint).read_bytes()
    for content in (whole[: len(whole) // 2], b"\x80\x04garbage", b"PK\x03\x04garbage"):
        path.write_bytes(content)
        refused(path, "damaged|refused")
    path.write_bytes((100).to_bytes(8, "little") + b"{}")
    refused(path, "not a whole safetensors file")
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)  # type: ignore[no-untyped-call]
    refused(path, "TorchScript")
    for saved, message in (
        ([torch.ones(1)], "holds a list"),
        ({}, "holds no weights"),
        ({"model": {}}, "no checkpoint of weights|holds no weights"),
        ({"model": {"a": 1}}, "'a' is a int"),
        ({"weights": torch.ones(1)}, "is none of scan"),
        ({"model": {"a": torch.ones(1).to_sparse()}}, "no plain tensor"),
    ):
        torch.save(saved, path)
        refused(path, message)
    assert not (tmp_path / "out").exists()


def test_models_that_are_not_whole(tmp_path: Path, checkpoint: dict[str, Tensor]) -> None:
    def refused(state: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            convert([write(tmp_path / "scan.pth", state)], tmp_path / "out")

    def without(*names: str) -> dict[str, Tensor]:
        return {n: t for n, t in checkpoint.items() if not n.startswith(names)}

    refused(without("sem_seg_head.predictor.query_feat.weight"), "queries_features.* missing")
    refused(without("LFM."), r"integration\.lfe\.conv1\.weight missing; .* and 1 more")
    refused(without("clip_adapter.original_clip.proj"), r"clip\.model\.visual\.proj missing")
    refused(without("clip_adapter.non_object_embedding"), "void missing")
    refused({**checkpoint, "LFM.conv3.weight": torch.ones(1)}, r"no rule knows: LFM\.conv3")
    wrong = {"oriclip_mlp.fc1.bias": torch.ones(D + 1)}
    refused({**checkpoint, **wrong}, r"fc1\.bias is \(65,\), not \(64,\)")
    name = "backbone.layers.0.blocks.0.attn.qkv.bias"
    refused({**checkpoint, name: torch.ones(47)}, "does not split in 3")
    assert not (tmp_path / "out").exists()


def test_unknown_weights_are_left_out_on_request(
    tmp_path: Path, checkpoint: dict[str, Tensor]
) -> None:
    path = write(tmp_path / "scan.pth", {**checkpoint, "ema.decay": torch.ones(1)})
    report = convert([path], tmp_path, ignore_unknown=True)
    (entry,) = (e for e in report.entries if e.name == "ema.decay")
    assert (entry.action, entry.reason) == ("ignored", "unknown, left out as asked")


def test_files_that_do_not_belong_together(tmp_path: Path, checkpoint: dict[str, Tensor]) -> None:
    scan = write(tmp_path / "scan.pth", checkpoint)
    torch.save(clip(5).state_dict(), tmp_path / "clip.pt")
    tuned = {"state_dict": prefixed("module.clip_model.", clip(9).state_dict())}
    torch.save(tuned, tmp_path / "tuned.pt")
    half = {n: t for n, t in tuned["state_dict"].items() if "resblocks.3" not in n}
    torch.save({"state_dict": half}, tmp_path / "half.pt")
    more = {**tuned["state_dict"], "module.other.weight": torch.ones(1)}
    torch.save({"state_dict": more}, tmp_path / "more.pt")
    for files, message in (
        ([scan, scan], "more than one"),
        ([scan, tmp_path / "clip.pt"], "brings its own CLIP"),
        ([tmp_path / "tuned.pt"], "segmentation model beside it"),
        ([scan, tmp_path / "half.pt"], r"lacks .*resblocks\.3"),
        ([scan, tmp_path / "more.pt"], r"no rule knows: module\.other"),
        ([], "at least one"),
    ):
        with pytest.raises(InputError, match=message):
            convert(files, tmp_path / "out")
    assert not (tmp_path / "out" / CONFIG).exists()


def test_a_resnet_clip_is_no_vision_transformer(tmp_path: Path) -> None:
    torch.save({"visual.conv1.weight": torch.ones(8, 3, 3, 3)}, tmp_path / "clip.pt")
    with pytest.raises(InputError, match="no vision transformer"):
        convert([tmp_path / "clip.pt"], tmp_path / "out")
