"""What trains a row: scanseg's own stage, a program, or a class of the user's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from scanseg.ablation.suite import ClipConfig, Suite, TrainerConfig, as_changes
from scanseg.contracts import InputError
from scanseg.training.config import Experiment, load_experiment

Progress = Callable[[int, int, float], None]
_OF_NO_EFFECT = ("name", "evaluation", "checkpoint")
"""Parts of an experiment that do not change the weights."""


class RowTrainer(Protocol):
    """Trains rows; a class path in ``trainer.kind`` names one that is made without arguments."""

    def resolve(self, settings: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        """All that decides the weights, plain values. Rows for which it is equal share a training.

        Raises:
            InputError: the settings are wrong; before anything is trained.
        """

    def train(
        self, settings: Mapping[str, Any], seed: int, output: Path, progress: Progress
    ) -> str:
        """Train into ``output``, going on with what is there; returns preset or model folder."""


class SegmenterTrainer:
    """``scanseg train`` with the row's changes; the seed is that of data, weights and dropout."""

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config

    def changes(self, settings: Mapping[str, Any], seed: int) -> list[str]:
        """The row's changes to the experiment, as ``scanseg train --set`` takes them."""
        seeds = {"trainer.seed": seed, "model.seed": seed}
        return as_changes(seeds, self.config.set, settings)

    def experiment(self, settings: Mapping[str, Any], seed: int) -> Experiment:
        """The row's experiment."""
        return load_experiment(self.config.experiment, self.changes(settings, seed))

    def resolve(self, settings: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        """The whole experiment."""
        return weights_of(self.experiment(settings, seed))

    def train(
        self, settings: Mapping[str, Any], seed: int, output: Path, progress: Progress
    ) -> str:
        """Train or resume; in a process of its own where that starts more of them.

        Raises:
            InputError: such a process failed.
        """
        experiment = self.experiment(settings, seed)
        if experiment.trainer.devices > 1:
            return self._apart(settings, seed, output)
        from scanseg.training.run import train

        return str(train(experiment, output, resume=True, progress=progress))

    def _apart(self, settings: Mapping[str, Any], seed: int, output: Path) -> str:
        """Every rank runs the command again, and none but the training may be in that."""
        words = [sys.executable, "-m", "scanseg", "train", self.config.experiment, "--resume"]
        words += ["--output", str(output), "--set", *self.changes(settings, seed)]
        done = subprocess.run(words, stdout=sys.stderr, check=False)
        if done.returncode:
            raise InputError(f"scanseg train ended with code {done.returncode}: {words}")
        return str(output / "model")


class NoTrainer:
    """Rows that name a model: nothing to do."""

    def resolve(self, settings: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        """The model's name."""
        return dict(settings)

    def train(
        self, settings: Mapping[str, Any], seed: int, output: Path, progress: Progress
    ) -> str:
        """The model's name."""
        return str(settings["model"])


class CommandTrainer:
    """A program: its words with ``{seed}``, ``{output}`` and the row's keys filled in, no shell."""

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config

    def resolve(self, settings: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        """The words; folder, seed and which Python runs them are left open."""
        words = [self._fill(word, settings, "{seed}", "{output}") for word in self.config.command]
        return {"command": words, "model": self.config.model}

    def train(
        self, settings: Mapping[str, Any], seed: int, output: Path, progress: Progress
    ) -> str:
        """Run it; what it prints goes to standard error.

        Raises:
            InputError: it is not there, or ends with another code than 0.
        """
        words = self._words(settings, seed, str(output))
        output.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(words, stdout=sys.stderr, check=False)
        except OSError as error:
            raise InputError(f"trainer.command: cannot run {words[0]} ({error})") from error
        if done.returncode:
            raise InputError(f"trainer.command ended with code {done.returncode}: {words}")
        return self._fill(self.config.model, settings, seed, str(output))

    def _words(self, settings: Mapping[str, Any], seed: int | str, output: str) -> list[str]:
        words = [self._fill(word, settings, seed, output) for word in self.config.command]
        return [sys.executable if word == "python" else word for word in words]

    def _fill(self, word: str, settings: Mapping[str, Any], seed: int | str, output: str) -> str:
        try:
            known = {**self.config.set, **settings}
            return word.format(**{**known, "seed": seed, "output": output})
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"trainer.command: nothing fills {error} in {word!r}: give it with --set "
                "trainer.set.KEY=VALUE, or under train in each row; there are seed, output, "
                + ", ".join(dict.fromkeys([*self.config.set, *settings]))
            ) from error


def trainer_of(suite: Suite) -> RowTrainer:
    """What trains the rows of a suite.

    Raises:
        InputError: a class path leads to no trainer.
    """
    config = suite.trainer
    if config.kind == "segmenter":
        return SegmenterTrainer(config)
    if config.kind == "none":
        return NoTrainer()
    if config.kind == "command":
        return CommandTrainer(config)
    module, _, name = config.kind.rpartition(".")
    try:
        found: Any = getattr(import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"no trainer {config.kind!r}: {error}") from error
    if not callable(getattr(found, "train", None)) or not callable(getattr(found, "resolve", None)):
        raise InputError(f"{config.kind} needs the methods resolve and train of a RowTrainer")
    return found


def clip_experiment(config: ClipConfig, settings: Mapping[str, Any], seed: int) -> Experiment:
    """The experiment of a row's CLIP stage."""
    seeds = {"trainer.seed": seed, "model.seed": seed}
    return load_experiment(config.experiment, as_changes(seeds, config.set, settings))


def weights_of(experiment: Experiment) -> dict[str, Any]:
    """What of an experiment decides the weights."""
    values = experiment.to_dict()
    return {key: value for key, value in values.items() if key not in _OF_NO_EFFECT}
