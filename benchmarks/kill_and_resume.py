"""A run that is killed again and again ends bit for bit like one that is left alone.

    python benchmarks/kill_and_resume.py --kills 20 --output FOLDER

Trains the tiny preset on the CPU twice. One run is left alone. The other is ended with SIGKILL,
resumed with ``scanseg train ... --resume``, ended again and so on: half of the times at a random
moment after its first new step, the other half while a checkpoint is being written (its temporary
file is there). At the end parameters, moving averages, optimiser and schedule are compared.
Prints one line per kill, then the result as JSON; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scanseg.training.checkpoints import CheckpointStore

EXPERIMENT = """\
extends: tiny
name: kill_and_resume
augmentation: {{short_min: 48, short_max: 96, short_step: 16, longest: 160, crop: 64}}
loss: {{points: 256}}
trainer: {{steps: {steps}, batch: 4, accumulate: 2, workers: 1, log_every: 1, seed: 3}}
checkpoint: {{every: {every}, keep: 2}}
ema: {{decay: 0.9}}
evaluation: {{every: 0}}
data: [{{root: {data}}}]
"""


def write_data(root: Path) -> Path:
    """Six photos of coloured blocks in four classes."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("0\tred\n1\tgreen\n2\tblue\n3\tgrey\n")
    colours = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 210], [128, 128, 128]])
    for number in range(6):
        labels = np.kron(generator.integers(0, 4, (3, 4)), np.ones((32, 32), int))
        noise = generator.normal(0, 12, (*labels.shape, 3))
        pixels = (colours[labels] + noise).clip(0, 255)
        Image.fromarray(labels.astype(np.uint8)).save(root / "labels" / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{number}.png")
    return root


def start(experiment: Path, output: Path) -> subprocess.Popen:
    """``scanseg train ... --resume`` as a process of its own."""
    command = [sys.executable, "-m", "scanseg", "train", str(experiment)]
    command += ["--output", str(output), "--resume", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    """Wait for the end, or stop with what the process complained about."""
    _, complaints = process.communicate()
    if process.returncode:
        raise SystemExit(f"training failed:\n{complaints.decode()[-3000:]}")


def kill(process: subprocess.Popen, folder: Path, writing: bool, chance: random.Random) -> str:
    """End a process at some moment after its first new step; says when it was."""
    store = CheckpointStore(folder)
    before = (store.steps() or [0])[0]
    while process.poll() is None and (store.steps() or [0])[0] <= before:
        time.sleep(0.002)
    moment = "at the end"
    if writing:
        while process.poll() is None:
            if any(folder.glob(".step_*.ckpt.*.tmp")):
                moment = "while a checkpoint is written"
                break
    else:
        time.sleep(chance.uniform(0, 0.4))
        moment = "at a random moment"
    if process.poll() is not None:
        finish(process)
        return "not killed, it was through"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    half = len(list(folder.glob(".step_*.tmp")))
    return f"killed {moment}, newest step {store.steps()[0]}, {half} half-written files"


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nests of values differ in any bit."""
    if isinstance(one, torch.Tensor):
        same = torch.equal(one, other) and one.dtype == other.dtype
        return [] if same else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [path]
        return [d for key in one for d in differences(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [path]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}.{i}")]
    return [] if one == other else [path]


def compare(left: Path, right: Path) -> dict[str, Any]:
    """Final states of two runs."""
    states = [CheckpointStore(folder / "checkpoints").read() for folder in (left, right)]
    assert states[0] is not None
    assert states[1] is not None
    parts = ("global_step", "state_dict", "optimizer_states", "lr_schedulers")
    found = [d for part in parts for d in differences(states[0][part], states[1][part], part)]
    own = [state["scanseg"] for state in states if state is not None]
    found += differences(own[0]["average"], own[1]["average"], "average")
    models = [(folder / "model" / "model.safetensors").read_bytes() for folder in (left, right)]
    found += [] if models[0] == models[1] else ["model.safetensors"]
    logs = [(folder / "log" / "metrics.csv").read_text() for folder in (left, right)]
    return {
        "step": int(states[0]["global_step"]),
        "tensors": sum(p.numel() > 0 for p in states[0]["state_dict"].values()),
        "parameters": sum(p.numel() for p in states[0]["state_dict"].values()),
        "different": found,
        "same_log": sorted(logs[0].split()) == sorted(logs[1].split()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=1, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="keep the runs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        experiment = folder / "experiment.yaml"
        data = write_data(folder / "data")
        text = EXPERIMENT.format(steps=options.steps, every=options.every, data=data)
        experiment.write_text(text)
        alone, killed = folder / "alone", folder / "killed"
        finish(start(experiment, alone))
        print(f"left alone: {options.steps} steps", file=sys.stderr)
        chance, kills, writing = random.Random(options.seed), 0, 0
        for number in range(options.kills):
            process = start(experiment, killed)
            moment = kill(process, killed / "checkpoints", number % 2 == 1, chance)
            print(f"{number + 1}: {moment}", file=sys.stderr)
            if moment.startswith("not killed"):
                break
            kills += 1
            writing += "written, newest" in moment
        finish(start(experiment, killed))
        result = {"kills": kills, "while_writing": writing, **compare(alone, killed)}
        print(json.dumps(result))
        return 1 if result["different"] or kills < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
