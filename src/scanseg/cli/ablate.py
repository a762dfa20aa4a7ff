"""``scanseg ablate``: the rows of a table over seeds, beside the paper's numbers."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from scanseg.cli import EXIT_OK, EXIT_SOME_FAILED
from scanseg.cli.report_console import print_section
from scanseg.cli.training_progress import training_progress
from scanseg.contracts import InputError


def ablate(
    suite: str,
    *,
    root: str | None = None,
    set_: list[str] = [],  # noqa: B006  (only read)
    seeds: list[str] = [],  # noqa: B006
    output: str | None = None,
    device: str = "auto",
    budget: float | None = None,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Run a table of ablations and print it beside the paper's numbers.

    A suite is a YAML file: rows, seeds, data, how to train. Shipped: table3 to table8 (ViT-L, real
    data), table3_tiny to table8_tiny (a CPU, minutes), mini_table3, 4, 6, 7, 8 and mini_withheld
    (packaged towers; make study gives them what they need). Rows that differ only at inference
    share their trainings. A run that was killed goes on when the same command is given again.
    Writes table.md, table.json and table.png. Exit code 3: the budget was spent before all was
    done.

    Args:
        suite: a YAML file or the name of a shipped suite
        root: folder of the data sets that the suite leaves open, for training and evaluation
        set_: changes to the suite, as KEY.KEY=VALUE: data.0.root=ADE trainer.set.trainer.steps=50
        seeds: seeds in place of the suite's
        output: folder for all pieces and the table (default: scanseg_ablation/NAME)
        device: to evaluate on: auto, cpu, cuda, mps, cuda:1 ...
        budget: minutes after which nothing new is begun
        dry_run: show trainings, which rows share them, and the estimated time; run nothing
        json: print one JSON object to standard output
        quiet: no progress bar
    """
    from scanseg.ablation.plan import describe, make_plan
    from scanseg.ablation.suite import load_suite

    changes = list(set_)
    if seeds:
        if not all(seed.isdecimal() for seed in seeds):
            raise InputError(f"--seeds takes whole numbers, not {' '.join(seeds)}")
        changes.append(f"seeds=[{', '.join(seeds)}]")
    if budget is not None:
        changes.append(f"budget_minutes={budget}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "scanseg ablate starts its own processes: leave torchrun out, and give "
            "--set trainer.set.trainer.devices=N"
        )
    found = load_suite(suite, changes, root=root)
    folder = Path(output or f"scanseg_ablation/{found.name}")
    plan = make_plan(found)
    if dry_run:
        print(describe(plan, folder))
        return EXIT_OK
    from scanseg.ablation.run import run_plan
    from scanseg.ablation.table import make_table, plot
    from scanseg.evaluation.outputs import json_text, write_all
    from scanseg.evaluation.report_markdown import section_to_markdown

    warnings.filterwarnings("ignore", module=r"lightning(\.|$)")
    missing = run_plan(
        plan, folder, lambda what: training_progress(what, quiet=quiet), device=device
    )
    table = make_table(plan, folder)
    section, content = table.section(), json_text(table.to_json())
    write_all(
        folder,
        {"table.json": content + "\n", "table.md": section_to_markdown(section)},
    )
    plot(table, folder / "table.png")
    if json:
        print(content)
    else:
        print_section(section)
    print(f"written: {folder}/table.md, table.json, table.png", file=sys.stderr)
    if missing:
        print(
            f"{missing} of {len(plan.pieces)} pieces are missing: the budget is spent; the same "
            "command goes on",
            file=sys.stderr,
        )
        return EXIT_SOME_FAILED
    return EXIT_OK


COMMAND = ablate
