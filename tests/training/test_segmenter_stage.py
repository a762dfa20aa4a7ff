"""The segmentation stage: what trains, what does not, and a run from start to model folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scanseg
from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.fusion import TermOwners, in_vocabulary_logits
from scanseg.training.checkpoints import CheckpointStore
from scanseg.training.config import Experiment, ModelConfig, load_experiment
from scanseg.training.crops import Batch, TrainingPhotos, collate
from scanseg.training.models import StartingPoint, require_clip, scan_config, starting_model
from scanseg.training.order import Batches
from scanseg.training.run import Prepared, describe, prepare, train
from scanseg.training.segmenter_stage import SegmenterStage
from scanseg.training.validation import Validation
from scanseg.weights import load_folder, save_folder

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "augmentation={short_min: 48, short_max: 80, short_step: 16, longest: 160, crop: 64}",
    "loss.points=128",
    "trainer.batch=4",
    "trainer.workers=0",
    "trainer.log_every=1",
    "schedule.warmup_steps=0",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos of noisy blocks in three classes."""
    root = tmp_path_factory.mktemp("blocks")
    generator = np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("0\tred\n1\tgreen\n2\tblue\n")
    colours = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 210]])
    for number in range(5):
        labels = np.kron(generator.integers(0, 3, (3, 4)), np.ones((24, 24), int))
        pixels = (colours[labels] + generator.normal(0, 9, (*labels.shape, 3))).clip(0, 255)
        Image.fromarray(labels.astype(np.uint8)).save(root / "labels" / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{number}.png")
    return root


def experiment(data: Path, *changes: str) -> Experiment:
    return load_experiment("tiny", [f"data.root={data}", *SMALL, *changes])


@pytest.fixture(scope="module")
def prepared(data: Path) -> Prepared:
    return prepare(experiment(data))


def first_batch(prepared: Prepared) -> Batch:
    photos = TrainingPhotos(prepared.sources, prepared.experiment.augmentation, 0)
    return collate([photos[position] for position in range(4)])


def test_only_what_should_trains(prepared: Prepared) -> None:
    stage = prepared.stage
    trainable = set(stage.trainable())
    assert {name.split(".")[1] for name in trainable} == {"proposals", "integration", "void"}
    frozen = {name for name, _ in stage.named_parameters()} - trainable
    assert {name.split(".")[1] for name in frozen} == {"clip", "region_clip"}
    assert {n for g in prepared.groups for n in g.names} == trainable
    stage.train()
    stage.losses(first_batch(prepared)).total.backward()
    without = {name for name, p in stage.named_parameters() if p.grad is None}
    assert without == frozen  # every trainable parameter has a gradient, nothing else
    assert all(torch.isfinite(p.grad).all() for p in stage.parameters() if p.grad is not None)
    stage.zero_grad()


def test_frozen_parts_stay_in_evaluation_mode(prepared: Prepared) -> None:
    stage = prepared.stage.train()
    assert stage.training
    assert stage.segmenter.proposals.training  # type: ignore[attr-defined]
    assert stage.segmenter.integration.training  # type: ignore[union-attr]
    clip: torch.nn.Module = stage.segmenter.clip  # type: ignore[assignment]
    assert not any(module.training for module in clip.modules())


def test_every_layer_goes_through_integration(prepared: Prepared) -> None:
    """Deep supervision: gamma has a gradient from auxiliary layers too."""
    stage = prepared.stage.eval()
    predictions = stage(first_batch(prepared).pixels)
    assert len(predictions) == 3  # two decoder layers, and the queries before them
    gamma = stage.segmenter.integration.gamma  # type: ignore[union-attr]
    for prediction in predictions:
        (gradient,) = torch.autograd.grad(
            prediction.class_logits.square().sum(), gamma, retain_graph=True
        )
        assert gradient.abs().item() > 0
        assert prediction.class_logits.shape == (4, 12, 4)  # three words and void


@pytest.mark.parametrize("semantics", ["released", "paper"])
def test_last_layer_is_what_inference_computes(data: Path, semantics: str) -> None:
    prepared = prepare(experiment(data, f"model.inference={{semantics: {semantics}}}"))
    stage, batch = prepared.stage.eval(), first_batch(prepared)
    segmenter = stage.segmenter
    text, owners = segmenter.encode(list(prepared.sources.words))
    with torch.no_grad():
        evidence = segmenter.forward(batch.pixels, text, owners, segmenter.recipe.settings)
        final = stage(batch.pixels)[-1]
    assert evidence.p_in is not None
    torch.testing.assert_close(
        final.class_logits.softmax(-1)[..., :-1], evidence.p_in, rtol=1e-4, atol=1e-6
    )


def test_vocabulary_logits_are_not_autocast() -> None:
    torch.manual_seed(0)
    embeddings, text, void = torch.randn(1, 5, 8), torch.eye(8)[:3], torch.randn(8)
    owners = TermOwners(torch.arange(3), 3)
    exact = in_vocabulary_logits(embeddings, text, owners, void, 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(in_vocabulary_logits(embeddings, text, owners, void, 100.0), exact)
        rough = in_vocabulary_logits(embeddings.bfloat16(), text, owners, void, 100.0)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, atol=0.5)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_train_and_evaluate(data: Path, tmp_path: Path, precision: str) -> None:
    changes = (f"trainer.precision={precision}", "trainer.steps=1", "evaluation.images=1")
    folder = train(experiment(data, *changes), tmp_path / "run")
    _, tensors = load_folder(folder)
    assert tensors["void"].dtype == torch.float32
    assert len((tmp_path / "run" / "evaluations.csv").read_text().split()) == 2


def test_a_run_trains_and_leaves_a_model(data: Path, tmp_path: Path) -> None:
    changes = ("trainer.steps=6", "evaluation.every=3", "evaluation.images=2", "checkpoint.every=3")
    settings, run = experiment(data, *changes), tmp_path / "run"
    before, _ = starting_model(settings.model)
    told: list[int] = []
    folder = train(settings, run, progress=lambda step, *_: told.append(step))
    _, tensors = load_folder(folder, verify=True)
    moved = {n for n, value in before.state_dict().items() if not torch.equal(tensors[n], value)}
    assert not any(name.startswith(("clip.", "region_clip.")) for name in moved)  # bit for bit
    assert before.integration.gamma.item() == pytest.approx(0.1)  # type: ignore[union-attr]
    assert {"integration.gamma", "void"} <= moved
    assert told == [1, 2, 3, 4, 5, 6]
    assert (run / "losses.png").stat().st_size > 10_000
    sheets = sorted(path.name for path in (run / "overlays").iterdir())
    assert sheets == ["step_00000003.png", "step_00000006.png"]
    rows = (run / "evaluations.csv").read_text().split()
    assert [row.split(",")[0] for row in rows] == ["step", "3", "6"]
    assert load_experiment(run / "experiment.yaml") == settings
    model = scanseg.Segmenter.from_pretrained(folder, device="cpu")
    found = model(Image.open(data / "images" / "0.png"), ["red", "green", "blue"])
    assert found.labels.shape == (72, 96)
    with pytest.raises(InputError, match="already holds a run: --resume"):
        train(settings, run)
    with pytest.raises(InputError, match=r"optimizer\.rate = 0\.001, not 0\.5"):
        train(experiment(data, *changes, "optimizer.rate=0.5"), run, resume=True)


def test_average_is_saved_in_place_of_the_weights(data: Path, tmp_path: Path) -> None:
    changes = ("trainer.steps=3", "evaluation.every=0")
    plain = load_folder(train(experiment(data, *changes), tmp_path / "plain"))[1]
    smooth = load_folder(train(experiment(data, *changes, "ema.decay=0.999"), tmp_path / "ema"))[1]
    start = starting_model(experiment(data).model)[0].state_dict()
    name = "proposals.embedding_head.fc1.weight"
    far, near = (plain[name] - start[name]).norm(), (smooth[name] - start[name]).norm()
    assert 0 < near < 0.01 * far


class Stop(Exception):  # noqa: N818
    """Ends a run in the middle."""


@pytest.mark.parametrize("accumulate", [1, 2])
def test_cut_short_and_resumed(data: Path, tmp_path: Path, accumulate: int) -> None:
    changes = ("evaluation.every=0", "checkpoint.every=2", "ema.decay=0.5", "trainer.steps=5")
    settings = experiment(data, *changes, f"trainer.accumulate={accumulate}")
    alone = load_folder(train(settings, tmp_path / "alone"))[1]

    def stop(step: int, *_: object) -> None:
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(settings, tmp_path / "cut", progress=stop)
    told: list[int] = []
    folder = train(settings, tmp_path / "cut", resume=True, progress=lambda s, *_: told.append(s))
    resumed = load_folder(folder)[1]
    assert max(told) == 5
    assert min(told) in (2, 3)  # from the checkpoint of step 2 on
    assert all(torch.equal(alone[name], resumed[name]) for name in alone)
    logs = [(tmp_path / run / "log" / "metrics.csv").read_text() for run in ("alone", "cut")]
    assert len(logs[0].split()) == 6
    assert logs[0].split()[-1] == logs[1].split()[-1]


def test_killed_after_the_last_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step is behind, but evaluations.csv and model/ are still those of step 2."""
    changes = ("trainer.steps=3", "evaluation.every=2", "evaluation.images=2", "ema.decay=0.5")
    settings = experiment(data, *changes)
    alone = load_folder(train(settings, tmp_path / "alone"))[1]
    look, looked = Validation.look, []

    def stop_at_the_end(validation: Validation, step: int) -> None:
        looked.append(step)
        if step == 3:
            raise Stop
        look(validation, step)

    monkeypatch.setattr(Validation, "look", stop_at_the_end)
    with pytest.raises(Stop):
        train(settings, tmp_path / "cut")
    assert looked == [2, 3]
    monkeypatch.setattr(Validation, "look", look)
    resumed = load_folder(train(settings, tmp_path / "cut", resume=True))[1]
    assert all(torch.equal(alone[name], resumed[name]) for name in alone)
    for name in ("evaluations.csv", "finished.json"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "alone" / name).read_text()
    logs = [(tmp_path / run / "log" / "metrics.csv").read_text() for run in ("alone", "cut")]
    assert logs[1].split() == logs[0].split()[:3]  # the last row had not been written
    monkeypatch.setattr(Validation, "look", stop_at_the_end)
    train(settings, tmp_path / "cut", resume=True)  # complete: nothing is done
    assert looked == [2, 3]


def test_resumed_with_other_parts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part per step, then two: each step still has its own photos."""
    changes = ("trainer.steps=3", "evaluation.every=0", "checkpoint.every=1")

    def stop(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        train(experiment(data, *changes), tmp_path / "run", progress=stop)
    halves = experiment(data, *changes, "trainer.accumulate=2")
    seen: list[tuple[int, int, torch.Tensor]] = []
    start = SegmenterStage.on_train_batch_start

    def note(stage: SegmenterStage, batch: Batch, batch_idx: int) -> None:
        seen.append((stage.global_step, batch_idx % 2, batch.pixels))
        start(stage, batch, batch_idx)

    monkeypatch.setattr(SegmenterStage, "on_train_batch_start", note)
    train(halves, tmp_path / "run", resume=True)
    assert [found[:2] for found in seen] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    photos = TrainingPhotos(prepare(halves).sources, halves.augmentation, halves.trainer.seed)
    for (*_, pixels), positions in zip(seen, Batches(halves.trainer, start=1), strict=True):
        assert torch.equal(pixels, torch.stack([photos[p].pixels for p in positions]))


def test_two_devices_resumed_on_one(data: Path, tmp_path: Path) -> None:
    """The checkpoint is edited to what two processes would have written: one batch each a step."""
    changes = ("trainer.steps=3", "evaluation.every=0", "checkpoint.every=1")
    settings = experiment(data, *changes, "trainer.accumulate=2")
    alone = load_folder(train(settings, tmp_path / "alone"))[1]

    def stop(step: int, *_: object) -> None:
        if step == 1:
            raise Stop

    with pytest.raises(Stop):
        train(settings, tmp_path / "cut", progress=stop)
    store = CheckpointStore(tmp_path / "cut" / "checkpoints")
    state = store.read()
    assert state is not None
    state["scanseg"]["experiment"]["trainer"].update(devices=2, accumulate=1)
    batches = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (batches["total"], batches["current"]):
        assert (counts["ready"], counts["processed"], counts["completed"]) == (2, 2, 1)
        counts.update(ready=1, started=1, processed=1, completed=0)
    store.write(1, state)
    resumed = load_folder(train(settings, tmp_path / "cut", resume=True))[1]
    assert all(torch.equal(alone[name], resumed[name]) for name in alone)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def test_two_processes_equal_accumulation(data: Path, tmp_path: Path) -> None:
    changes = [f"data.root={data}", *SMALL, "trainer.steps=3", "evaluation.every=0"]
    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    both += ["-m", "scanseg", "train", "tiny", "--quiet", "--output", str(tmp_path / "two")]
    both += ["--set", *changes, "trainer.devices=2"]
    done = subprocess.run(both, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one = train(load_experiment("tiny", [*changes, "trainer.accumulate=2"]), tmp_path / "one")
    alone, together = load_folder(one)[1], load_folder(tmp_path / "two" / "model")[1]
    start = starting_model(experiment(data).model)[0].state_dict()
    moved = max((alone[n] - start[n]).abs().max().item() for n in alone)
    assert moved > 1e-3
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=1e-5)


def test_killed_twice_and_resumed() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "kill_and_resume.py")]
    script += ["--kills", "2", "--steps", "5"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    assert '"while_writing": 1' in done.stdout
    assert '"different": []' in done.stdout


# --------------------------------------------------------------------------------------
# The model of an experiment
# --------------------------------------------------------------------------------------


def test_changes_reach_the_model() -> None:
    found = scan_config(
        ModelConfig(
            preset="tiny",
            integration={"layers": (1, 2), "sigmas": (3.0, 2.0), "use_cls": False},
            proposals={"queries": 5},
            inference={"shift_source": "none"},
            resize={"short": 96},
            shift_layers=(2,),
        )
    )
    assert found.integration is not None
    assert (found.integration.layers, found.integration.use_cls) == ((1, 2), False)
    assert found.recipe.token_layers == (1, 2)
    assert found.proposals["queries"] == 5
    assert found.recipe.settings.shift_source == "none"
    assert (found.recipe.resize.short, found.recipe.resize.longest) == (96, 256)
    assert found.recipe.shift_layers == (2,)
    assert scan_config(ModelConfig(preset="tiny", sim=False)).integration is None
    paper = scan_config(ModelConfig(preset="tiny", integration={"semantics": "paper"}))
    assert paper.integration is not None
    assert paper.integration.attention_layers == 1
    with pytest.raises(InputError, match=r"model\.preset must be one of"):
        scan_config(ModelConfig(preset="embedded"))


def test_starting_points(tmp_path: Path) -> None:
    """A whole model, or a CLIP and a backbone only; never half a part."""
    whole, start = starting_model(ModelConfig(preset="tiny", seed=1))
    assert start.read == {}
    folder = whole.save_pretrained(tmp_path / "whole")
    again, start = starting_model(ModelConfig(preset="tiny", weights=str(folder)))
    assert start.random == {}
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in again.state_dict().items())

    state = whole.state_dict()
    backbone = "proposals.model.pixel_level_module.encoder."
    some = {k: v for k, v in state.items() if k.startswith(("clip.", "region_clip.", backbone))}
    save_folder(tmp_path / "parts", some, {"preset": None}, "terms")
    found, start = starting_model(ModelConfig(preset="tiny", weights=str(tmp_path / "parts")))
    assert start.random.keys() == {"proposals", "integration", "void"}
    assert all(torch.equal(found.state_dict()[k], v) for k, v in some.items())
    assert not torch.equal(found.state_dict()["void"], state["void"])

    some.pop(next(k for k in some if k.startswith("clip.")))
    save_folder(tmp_path / "half", some, {"preset": None}, "terms")
    with pytest.raises(InputError, match="missing"):
        starting_model(ModelConfig(preset="tiny", weights=str(tmp_path / "half")))


def test_without_integration(data: Path) -> None:
    bare = prepare(experiment(data, "model.sim=false"))
    assert {name.split(".")[1] for name in bare.stage.trainable()} == {"proposals", "void"}
    bare.stage.losses(first_batch(bare)).total.backward()


def test_dry_run(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [f"data.root={data}", *SMALL, "trainer.steps=10"]
    assert main(["train", "tiny", "--dry-run", "--set", *changes]) == 0
    said = capsys.readouterr().out
    assert "folder all: 5 photos, 3 classes" in said
    assert "10 steps x 4 photos = 40 crops, 8.0 passes; 4 at once" in said
    assert "frozen: clip (" in said
    assert "segmenter.integration.gamma" in said
    assert "segmenter.void" in said
    assert "activations" in said
    assert "could not be measured" not in said


def test_mistakes_on_the_command_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tinny"]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err
    assert main(["train", "tiny", "--set", "trainer.step=3"]) == 2
    assert "trainer.step (did you mean 'steps'?)" in capsys.readouterr().err
    assert main(["train", "tiny"]) == 2
    assert "--set data.root=FOLDER" in capsys.readouterr().err


def test_full_size_models_need_a_clip() -> None:
    with pytest.raises(InputError, match=r"scanseg convert .* model\.weights"):
        require_clip(ModelConfig(preset="vit_b"), StartingPoint(None, {}, {"clip": 3}))
    require_clip(ModelConfig(preset="vit_b"), StartingPoint(None, {}, {"proposals": 3}))


def test_description_counts_parameters(prepared: Prepared) -> None:
    total = sum(p.numel() for p in prepared.stage.trainable().values())
    sizes = [group.size for group in prepared.groups]
    assert sum(sizes) == total
    said = describe(prepared, names=False)
    assert all(f"{size:,} numbers" in said for size in sizes)
