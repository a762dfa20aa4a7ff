"""``scanseg train``: an experiment -> a trained model folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from scanseg.cli import EXIT_OK
from scanseg.cli.training_progress import training_progress


def train(
    experiment: str,
    *,
    set_: list[str] = [],  # noqa: B006  (only read)
    output: str | None = None,
    resume: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> int:
    """Train a SCAN model: proposals and semantic integration on a data set, CLIP frozen.

    Experiments are YAML files that state differences only. Shipped ones: tiny (a CPU, minutes),
    finetune_own_folder, scan_vit_b, scan_vit_l; rows of the paper's tables: scanseg ablate.
    The output folder gets checkpoints, a log in CSV, curves, overlays, scores, and model/, which
    scanseg segment --preset OUTPUT/model reads. A run that was killed goes on with --resume as if
    nothing had happened. Several devices: --set trainer.devices=4; several machines: torchrun or
    SLURM, with trainer.nodes.

    Args:
        experiment: a YAML file or the name of a shipped experiment
        set_: changes, as KEY.KEY=VALUE: data.root=photos trainer.steps=1000
        output: folder of the run (default: scanseg_training/NAME)
        resume: go on from the newest good checkpoint in the output folder
        dry_run: show resolved settings, data, parameters that train, memory; train nothing
        quiet: no progress bar
    """
    from scanseg.training.config import load_experiment

    found = load_experiment(experiment, set_)
    if dry_run:
        from scanseg.training.run import describe, prepare

        print(describe(prepare(found, encode=False)))
        return EXIT_OK
    folder = Path(output or f"scanseg_training/{found.name or Path(experiment).stem}")
    warnings.filterwarnings("ignore", module=r"lightning(\.|$)")
    from scanseg.training.run import train as run

    with training_progress("training", quiet=quiet) as tell:
        model = run(found, folder, resume=resume, progress=tell)
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0:
        print(model)
    return EXIT_OK


COMMAND = train
