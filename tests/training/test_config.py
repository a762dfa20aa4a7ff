"""Experiments from YAML: differences, types, nearest keys, changes from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanseg.contracts import InputError
from scanseg.training.config import Experiment, load_experiment, parse_experiment
from scanseg.training.yaml_layers import shipped_experiments


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_defaults_are_the_released_settings() -> None:
    found = Experiment()
    assert (found.optimizer.rate, found.optimizer.weight_decay) == (6e-5, 0.01)
    assert found.optimizer.clip_norm == 0.01
    assert (found.schedule.warmup_steps, found.schedule.power) == (1500, 0.9)
    assert (found.trainer.steps, found.trainer.batch) == (120_000, 32)
    assert (found.loss.class_weight, found.loss.mask_weight, found.loss.dice_weight) == (2, 5, 5)
    augmentation = found.augmentation
    assert (augmentation.short_min, augmentation.short_max, augmentation.crop) == (320, 1280, 640)


def test_base_says_what_the_defaults_say() -> None:
    assert load_experiment("base") == Experiment()


@pytest.mark.parametrize("name", shipped_experiments())
def test_shipped_experiments_are_valid_and_read_back(name: str, tmp_path: Path) -> None:
    found = load_experiment(name)
    assert load_experiment(write(tmp_path, "again", found.to_yaml())) == found


def test_extends_states_differences_only(tmp_path: Path) -> None:
    write(tmp_path, "mine", "extends: base\ntrainer: {steps: 7}\ndata: [{root: a}, {root: b}]\n")
    write(tmp_path, "yours", "extends: mine\ntrainer: {batch: 8}\ndata: [{root: c}]\n")
    found = load_experiment(tmp_path / "yours.yaml")
    assert (found.trainer.steps, found.trainer.batch) == (7, 8)
    assert [d.root for d in found.data] == ["c"]  # lists are replaced
    assert found.trainer.workers == Experiment().trainer.workers


def test_a_file_may_extend_several(tmp_path: Path) -> None:
    write(tmp_path, "one", "trainer: {steps: 1, batch: 2}\n")
    write(tmp_path, "two", "trainer: {steps: 2}\n")
    path = write(tmp_path, "both", "extends: [one, two]\n")
    found = load_experiment(path).trainer
    assert (found.steps, found.batch) == (2, 2)


def test_circles_are_found(tmp_path: Path) -> None:
    write(tmp_path, "a", "extends: b\n")
    path = write(tmp_path, "b", "extends: a\n")
    with pytest.raises(InputError, match="circle"):
        load_experiment(path)


def test_changes() -> None:
    found = load_experiment(
        "tiny",
        [
            "data.root=photos",
            "trainer.steps=3",
            "optimizer.rate=1e-4",
            "model.integration.use_cls=false",
            "ema.decay=0.99",
            "optimizer.clip_norm=null",
            "model.integration.layers=[1, 2]",
        ],
    )
    assert found.data[0].root == "photos"
    assert (found.trainer.steps, found.optimizer.rate) == (3, 1e-4)
    assert found.model.integration == {"use_cls": False, "layers": (1, 2)}
    assert found.ema.decay == 0.99
    assert found.optimizer.clip_norm is None


def test_changes_of_one_entry_or_all(tmp_path: Path) -> None:
    path = write(tmp_path, "two", "data: [{root: a}, {root: b}]\n")
    assert [d.weight for d in load_experiment(path, ["data.weight=2"]).data] == [2, 2]
    found = load_experiment(path, ["data.1.weight=2", "data.1.root=c"])
    assert [(d.root, d.weight) for d in found.data] == [("a", 1.0), ("c", 2.0)]
    with pytest.raises(InputError, match="2 entries"):
        load_experiment(path, ["data.5={root: d}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimzer: {rate: 1}", r"unknown setting optimzer \(did you mean 'optimizer'\?\)"),
        ("optimizer: {rat: 1}", r"optimizer\.rat \(did you mean 'rate'\?\); in optimizer there"),
        ("model: {integration: {use_clss: true}}", r"model\.integration\.use_clss .*'use_cls'"),
        ("model: {proposals: {querys: 3}}", r"model\.proposals\.querys .*'queries'"),
        ("model: {inference: {shift_ration: 3}}", r"shift_ration .*'shift_ratio'"),
        ("data: [{root: a}, {rot: b}]", r"data\.1\.rot .*'root'"),
        ("trainer: {steps: 1.5}", r"trainer\.steps must be a whole number, not 1\.5"),
        ("trainer: {steps: true}", r"trainer\.steps must be a whole number, not True"),
        ("optimizer: {rate: fast}", r"optimizer\.rate must be a number, not 'fast'"),
        ("augmentation: {colour: 1}", r"augmentation\.colour must be true or false, not 1"),
        ("schedule: {kind: polly}", r"schedule\.kind must be one of .*'poly'"),
        ("optimizer: {betas: [0.9]}", r"optimizer\.betas must have 2 entries, not 1"),
        ("optimizer: 3", r"optimizer must be a mapping"),
        ("model: {proposals: {queries: many}}", r"model\.proposals\.queries must be a whole num"),
        ("trainer: {batch: 6, accumulate: 4}", r"trainer: batch 6 does not divide .* 4 parts"),
        ("optimizer: {rate: -1}", r"optimizer: rate must be at least 0, not -1"),
        ("optimizer: {betas: [0.9, 1.0]}", r"optimizer: betas must lie in \[0, 1\)"),
        ("schedule: {warmup_steps: -5}", r"schedule: warmup_steps must be at least 0, not -5"),
        ("loss: {importance: 2}", r"loss: importance must lie in \[0, 1\]"),
        ("- a", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("!!python/object/apply:os.system [x]", "is not YAML"),
        ("extends: 3", "extends must name"),
    ],
)
def test_mistakes_have_their_full_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_experiment(write(tmp_path, "bad", text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.steps", "takes key.key=value"),
        ("trainer..steps=1", "takes key.key=value"),
        ("trainer.stepz=1", r"trainer\.stepz \(did you mean 'steps'\?\)"),
        ("trainer.steps.more=1", "before .more holds no settings"),
        ("trainer.steps=[", "is not YAML"),
    ],
)
def test_mistakes_in_changes(change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_experiment("tiny", [change])


def test_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        load_experiment("tinny")


def test_micro_batch() -> None:
    found = parse_experiment({"trainer": {"batch": 32, "devices": 4, "nodes": 2, "accumulate": 2}})
    assert found.trainer.micro_batch == 2
