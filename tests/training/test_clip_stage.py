"""The CLIP stage end to end on synthetic captioned photos, with the tiny preset."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.presets import build, load, tiny
from scanseg.segmenter import Segmenter
from scanseg.training import clip_stage
from scanseg.training.checkpoints import CheckpointStore
from scanseg.training.clip_run import fuse_clip, prepare_clip, train_clip
from scanseg.training.clip_stage import contrastive
from scanseg.training.config import Experiment, load_experiment
from scanseg.training.crop_batches import TrainingCrops, collate_crops
from scanseg.weights import load_folder

pytest.importorskip("lightning")
WORDS = ("dog", "bus", "tree", "cake", "sink", "kite")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of coloured blocks with captions."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    captions = {}
    for number, word in enumerate(WORDS):
        blocks = generator.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(blocks).resize((96, 72), 0).save(folder / "images" / f"{number}.png")
        captions[str(number)] = [f"A {word} near a {WORDS[number - 1]}.", "Nothing here."]
    (folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    return folder


MINE = ("--preset", "tiny", "--min-score=-1", "--quiet", "--captions-per-photo", "2")


@pytest.fixture(scope="module")
def pairs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    options = ("--surroundings", "--shard", "4", "--output", str(folder))
    assert main(["finetune-clip", "mine", str(photos), *MINE, *options]) == 0
    return folder


def experiment(pairs: Path, *changes: str) -> Experiment:
    small = ("trainer.steps=6", "clip.epochs=0", "trainer.batch=4", "checkpoint.every=2")
    place = "clip.pairs=" + json.dumps(str(pairs))
    return load_experiment("clip_tiny", [place, *small, *changes])


def test_mining_finds_pairs_resumes_and_repeats(photos: Path, pairs: Path, tmp_path: Path) -> None:
    summary = json.loads((pairs / "mining.json").read_bytes())
    assert summary["finished"]
    assert summary["pairs"] >= 6
    assert set(summary["nouns"]) <= set(WORDS)
    assert Image.open(pairs / "contact_sheet.png").width > 100
    again = tmp_path / "again"
    command = ["finetune-clip", "mine", str(photos), *MINE, "--surroundings", "--shard", "4"]
    command += ["--output", str(again)]
    assert main(command) == 0
    files = ("pairs-000000.tar", "pairs-000001.tar", "mining.json", "contact_sheet.png")
    assert all((again / f).read_bytes() == (pairs / f).read_bytes() for f in files)
    kept = (again / "pairs-000000.tar").stat().st_mtime_ns
    (again / "pairs-000001.tar").write_bytes(b"cut short")
    assert main(command) == 0  # the whole shard stays, the other one is made again
    assert (again / "pairs-000000.tar").stat().st_mtime_ns == kept
    assert all((again / f).read_bytes() == (pairs / f).read_bytes() for f in files)
    assert main([*command, "--seed", "1"]) == 2  # another run must not mix with this one


def test_the_loss_by_hand() -> None:
    """Two crops, two words: features along x and y, words along x and the diagonal."""
    root = math.sqrt(0.5)
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [root, root]])
    loss, agreement = contrastive(features, text, torch.tensor([0, 1]), 2.0)
    logits = [[2.0, 2 * root], [0.0, 2 * root]]
    crops = -sum(row[i] - math.log(sum(map(math.exp, row))) for i, row in enumerate(logits)) / 2
    columns = list(zip(*logits, strict=True))
    words = -sum(row[i] - math.log(sum(map(math.exp, row))) for i, row in enumerate(columns)) / 2
    assert float(loss) == pytest.approx((crops + words) / 2, rel=1e-6)
    assert float(agreement) == 1.0


def test_pairs_of_one_noun_are_no_negatives() -> None:
    """Three crops of one noun: whatever the features, nothing can be told apart but the shares."""
    features = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1)
    text = torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4)
    loss, agreement = contrastive(features, text, torch.zeros(3, dtype=torch.long), 0.0)
    assert float(loss) == pytest.approx(math.log(3))
    assert float(agreement) == 1.0


def test_the_loss_is_in_float32() -> None:
    """Whatever autocast and torch's default type say."""
    torch.manual_seed(0)
    features, text = (torch.nn.functional.normalize(torch.randn(6, 16), dim=-1) for _ in range(2))
    nouns = torch.tensor([0, 1, 2, 0, 3, 4])
    exact, _ = contrastive(features, text, nouns, 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive(features, text, nouns, 100.0)[0], exact)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(contrastive(features, text, nouns, 100.0)[0], exact)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("source", ["cls", "none", "noise", "background", "learnable"])
def test_only_what_should_train_gets_gradients(pairs: Path, source: str) -> None:
    prepared = prepare_clip(experiment(pairs, f"clip.shift_source={source}"))
    stage, segmenter = prepared.stage, prepared.segmenter
    crops = TrainingCrops(prepared.pairs, stage.tower, "released", source == "background", 0)
    batch = collate_crops([crops[i] for i in range(4)])
    features = stage.features(batch, 0)
    loss, _ = contrastive(features, stage.text[batch.nouns], batch.nouns, stage.logit_scale.exp())
    loss.backward()
    named = {name for name, p in stage.named_parameters() if p.grad is not None}
    visual = {
        f"segmenter.region_clip.model.visual.{name}"
        for name, _ in stage.tower.model.visual.named_parameters()
    }
    token = {"segmenter.learnable_shift"} if source == "learnable" else set()
    assert named == visual | token | {"logit_scale"}
    assert set(stage.trainable()) == named
    if source == "learnable":
        assert segmenter.learnable_shift.grad.abs().sum() > 0


def test_each_crop_is_shifted_with_its_own_photo(pairs: Path) -> None:
    prepared = prepare_clip(experiment(pairs, "clip.shift_ratio=1.0"))
    stage = prepared.stage
    crops = TrainingCrops(prepared.pairs, stage.tower, "released", False, 0)
    batch = collate_crops([crops[i] for i in range(4)])
    with torch.no_grad():
        before = stage.features(batch, 0)
        photos = batch.photos.clone()
        photos[2] = 255 - photos[2]
        after = stage.features(replace(batch, photos=photos), 0)
    changed = (before - after).abs().amax(1) > 1e-6
    assert changed.tolist() == [False, False, True, False]


def test_train_fuse_load_segment(pairs: Path, photos: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    changes = ["clip.shift_source=learnable", "optimizer.rate=0.01"]
    train_clip(experiment(pairs, *changes), run)
    rows = (run / "log" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 7  # a head and six steps
    assert (run / "losses.png").stat().st_size > 1000
    assert main(["finetune-clip", "fuse", "tiny", str(run), "--output", str(model)]) == 0
    base, fused = load("tiny", device="cpu"), Segmenter.from_pretrained(model, device="cpu")
    _, tower = load_folder(run / "clip")
    trained = fused.region_clip.state_dict()
    was = base.region_clip.state_dict()
    moved = [n for n in was if not torch.equal(was[n], trained[n])]
    assert moved
    assert all(n.startswith("model.visual.") or n == "model.logit_scale" for n in moved)
    for name in tower:
        if name.startswith("visual."):
            assert torch.equal(tower[name], trained[f"model.{name}"])
    assert torch.equal(fused.learnable_shift, tower["learnable_shift"])
    for part in ("clip", "proposals", "integration"):  # bit-identical
        mine, theirs = getattr(fused, part).state_dict(), getattr(base, part).state_dict()
        assert all(torch.equal(mine[n], theirs[n]) for n in theirs)
    assert fused.recipe.settings.shift_source == "learnable"
    found = fused(photos / "images" / "0.png", ["dog", "bus"])
    assert found.labels.shape == (72, 96)
    other = base(photos / "images" / "0.png", ["dog", "bus"], scores=True).scores
    assert not np.array_equal(
        other, fused(photos / "images" / "0.png", ["dog", "bus"], scores=True).scores
    )


class _StopError(Exception):
    pass


def _stop_at(step: int) -> Callable[[int, int, float], None]:
    def tell(now: int, total: int, loss: float) -> None:
        if now == step:
            raise _StopError

    return tell


def test_a_resumed_run_equals_one_that_was_not_cut_short(pairs: Path, tmp_path: Path) -> None:
    settings = experiment(pairs, "clip.shift_source=noise")
    train_clip(settings, tmp_path / "whole")
    with pytest.raises(_StopError):
        train_clip(settings, tmp_path / "cut", progress=_stop_at(5))
    train_clip(settings, tmp_path / "cut", resume=True)
    weights = [(tmp_path / d / "clip" / "model.safetensors").read_bytes() for d in ("whole", "cut")]
    assert weights[0] == weights[1]
    logs = [(tmp_path / d / "log" / "metrics.csv").read_text() for d in ("whole", "cut")]
    assert logs[0] == logs[1]
    train_clip(settings, tmp_path / "cut", resume=True)  # complete: the same once more
    assert (tmp_path / "cut" / "clip" / "model.safetensors").read_bytes() == weights[0]


def test_other_parts_are_refused(pairs: Path, tmp_path: Path) -> None:
    """A part's pairs are each other's negatives, so their number changes the loss."""
    changes = ("trainer.steps=2", "checkpoint.every=1")
    train_clip(experiment(pairs, *changes), tmp_path / "run")
    halves = experiment(pairs, *changes, "trainer.accumulate=2")
    with pytest.raises(InputError, match=r"trainer\.accumulate = 1, not 2"):
        train_clip(halves, tmp_path / "run", resume=True)


def test_float64_trains(pairs: Path, tmp_path: Path) -> None:
    changes = ("trainer.precision=64-true", "trainer.steps=1", "clip.shift_source=background")
    train_clip(experiment(pairs, *changes), tmp_path / "run")
    fused = load(fuse_clip("tiny", tmp_path / "run", tmp_path / "model"), device="cpu")
    assert {p.dtype for p in fused.parameters()} == {torch.float32}


def test_the_scale_keeps_its_cap(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step pushes it beyond; loss, checkpoint, average and tower see it within."""
    scales: list[float] = []

    def push(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss, agreement = contrastive(*given)
        scales.append(float(given[3].detach()))
        return loss - 10 * given[3], agreement

    monkeypatch.setattr(clip_stage, "contrastive", push)
    changes = ("clip.scale_cap=2.0", "trainer.steps=2", "optimizer.rate=0.1", "ema.decay=0.1")
    settings = experiment(pairs, *changes, "schedule.warmup_steps=0")
    train_clip(settings, tmp_path / "run")
    _, tower = load_folder(tmp_path / "run" / "clip")
    state = CheckpointStore(tmp_path / "run" / "checkpoints").read()
    assert state is not None
    kept = [tower["logit_scale"], state["state_dict"]["logit_scale"]]
    kept.append(state["scanseg"]["average"]["logit_scale"])
    assert [*scales, *(float(k.exp()) for k in kept)] == pytest.approx([2.0] * 5, abs=1e-6)


def test_a_model_with_one_clip_gets_a_second_one(pairs: Path, tmp_path: Path) -> None:
    """same_clip: after fusing, SIM's CLIP has the old tower and regions the new one."""
    one = build(replace(tiny(), same_clip=True)).save_pretrained(tmp_path / "one")
    train_clip(experiment(pairs, "trainer.steps=2"), tmp_path / "run")
    fused = load(fuse_clip(str(one), tmp_path / "run", tmp_path / "two"), device="cpu")
    old = load(one, device="cpu")
    assert fused.clip is not fused.region_clip
    mine, theirs = fused.clip.state_dict(), old.clip.state_dict()
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert torch.equal(
        fused.region_clip.state_dict()["model.token_embedding.weight"],
        theirs["model.token_embedding.weight"],
    )


def test_a_learnable_token_survives_saving(tmp_path: Path) -> None:
    model = build(tiny())
    model.learnable_shift = torch.nn.Parameter(torch.arange(32.0))
    back = load(model.save_pretrained(tmp_path / "model"), device="cpu")
    assert back.learnable_shift.tolist() == list(range(32))
    assert load(build(tiny()).save_pretrained(tmp_path / "b"), device="cpu").learnable_shift is None


def test_mistakes_are_told(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for changes, words in (
        (["model.preset=embedded"], "cannot be fine-tuned"),
        (["clip.pairs=''"], "name the mined pairs"),
        (["stage=segmenter"], "scanseg train does that"),
        (["model.preset=vit_b"], "starts from a trained CLIP"),
    ):
        with pytest.raises(InputError, match=words):
            prepare_clip(experiment(pairs, *changes))
    with pytest.raises(InputError, match="is no fine-tuned CLIP"):
        fuse_clip("tiny", load("tiny").save_pretrained(tmp_path / "m"), tmp_path / "out")
    assert main(["finetune-clip", "train", "clip_tiny", "--pairs", str(tmp_path)]) == 2
    assert "mine makes them" in capsys.readouterr().err


def test_background_needs_surroundings(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    main(["finetune-clip", "mine", str(photos), *MINE, "--output", str(folder)])
    with pytest.raises(InputError, match="--surroundings"):
        prepare_clip(experiment(folder, "clip.shift_source=background"))
