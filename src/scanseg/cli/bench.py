"""``scanseg bench``: how long a model takes, stage by stage, and what a mode gains."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

from scanseg import __version__
from scanseg.cli import EXIT_OK
from scanseg.contracts import InputError, Mode
from scanseg.storage import write_json

LABEL_COUNTS = (1, 10, 100, 1_000, 10_000)
REGION_COUNTS = (1, 10, 25, 50, 100)


def bench(
    *,
    preset: str = "embedded",
    weights: str | None = None,
    device: str = "auto",
    mode: Mode = "exact",
    vs: Mode | None = None,
    photo: str | None = None,
    labels: int = 20,
    repeat: int = 5,
    threads: int | None = None,
    sweep: bool = False,
    output: str | None = None,
    json_: bool = False,
) -> int:
    """Time a model stage by stage, and one mode against another.

    One photo, cached words (the first names of ADE20K's 847). With --vs, the two modes run in turn
    and are compared pair by pair. Rates are set against the machine's own matrix product rate,
    measured in the same run. Peak memory is that of the whole process.

    Args:
        preset: embedded, vit_b, vit_l, zero_train, tiny, a model folder or a hub id
        weights: folder with the weights of a preset that ships none
        device: auto, cpu, cuda, mps, cuda:1 ...
        mode: exact, bf16 or fast
        vs: a second mode
        photo: file to time on (default: scikit-image's cat, 640 pixels wide)
        labels: number of words, 1 to 847
        repeat: counted calls of each mode, after one that warms up
        threads: of the CPU (default: as torch has it)
        sweep: also time 1 to 10,000 labels and 1 to 100 regions
        output: folder for bench.json and, with --sweep, bench.png
        json_: print one JSON object to standard output
    """
    if not 1 <= labels <= 847:
        raise InputError(f"--labels must lie between 1 and 847, not {labels}")
    if repeat < 1:
        raise InputError(f"--repeat must be at least 1, not {repeat}")
    if threads is not None and threads < 1:
        raise InputError(f"--threads must be at least 1, not {threads}")
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from scanseg import bench as measure
    from scanseg.segmenter import Segmenter
    from scanseg.vocabulary import Vocabulary
    from scanseg.vocabulary.label_sets import load_label_set

    if threads is not None:
        torch.set_num_threads(threads)
    picture = measure.load_photo(photo)
    words = Vocabulary(load_label_set("ade847").prompts[:labels], background=())
    modes: list[Mode] = [mode] if vs is None else [mode, vs]
    models = [
        Segmenter.from_pretrained(preset, weights=weights, device=device, mode=m) for m in modes
    ]
    place = models[0].device
    with Progress(console=Console(stderr=True), transient=True) as progress:
        calls = progress.add_task("calls", total=len(models) * (repeat + 2))
        timings = measure.time_models(
            models,
            Path(photo) if photo else picture,
            words,
            repeat=repeat,
            advance=lambda: progress.advance(calls),
        )
    types = [torch.float32, *([torch.bfloat16] if set(modes) - {"exact"} else [])]
    found: dict[str, Any] = {
        "preset": models[0].recipe.name,
        "device": str(place),
        "threads": torch.get_num_threads(),
        "labels": labels,
        "repeat": repeat,
        "photo": list(picture.pixels.shape[:2]),
        "versions": {"scanseg": __version__, "torch": torch.__version__},
        "machine": platform.processor() or platform.machine(),
        "gemm_gflop_per_s": {str(t)[6:]: measure.gemm_peak(t, place) for t in types},
        "modes": {m: t.summary() for m, t in zip(modes, timings, strict=True)},
    }
    if vs is not None:
        found["comparison"] = measure.compare(*timings)
    if sweep:
        found["seconds_by_labels"] = {
            m: measure.by_labels(s, picture, LABEL_COUNTS)
            for m, s in zip(modes, models, strict=True)
        }
        found["seconds_by_regions"] = {
            m: measure.by_regions(s, picture, REGION_COUNTS)
            for m, s in zip(modes, models, strict=True)
        }
    found["peak_gib"] = _peak(place)
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "bench.json", found)
        if sweep:
            _plot(found, folder / "bench.png")
    if json_:
        print(json.dumps(found))
    else:
        _print(found)
    return EXIT_OK


COMMAND = bench


def _peak(place: Any) -> float | None:
    """GiB that the process, or its memory on the device, took at most; ``None`` on Windows."""
    import torch

    if place.type == "cuda":
        return torch.cuda.max_memory_allocated(place) / 2**30
    try:
        import resource
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**30 if sys.platform == "darwin" else 2**20)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for mode, rows in found["modes"].items():
        table = Table(title=f"{found['preset']}, {mode}, {found['labels']} labels")
        for column in ("stage", "median s", "range", "GFLOP", "GFLOP/s"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for stage, row in rows.items():
            work = [f"{row[k]:.1f}" if k in row else "" for k in ("gflop", "gflop_per_s")]
            table.add_row(
                stage, f"{row['median']:.3f}", f"{row['low']:.3f}-{row['high']:.3f}", *work
            )
        console.print(table)
    peak = found["peak_gib"]
    memory = "" if peak is None else f"; peak memory {peak:.2f} GiB"
    rates = ", ".join(f"{t} {rate:.0f}" for t, rate in found["gemm_gflop_per_s"].items())
    console.print(
        f"matrix products here, GFLOP/s: {rates}; {found['threads']} threads on {found['device']}"
        + memory
    )
    if "comparison" in found:
        a, b = found["modes"]
        c = found["comparison"]
        console.print(
            f"{b} is {c['ratio_median']:.2f} times as fast as {a} ({c['ratio_low']:.2f}-"
            f"{c['ratio_high']:.2f} over {found['repeat']} pairs); the maps agree on "
            f"{100 * c['agreement']:.2f} % of the pixels"
        )
    for title in ("labels", "regions"):
        for mode, times in found.get(f"seconds_by_{title}", {}).items():
            row = ", ".join(f"{count}: {seconds:.2f}" for count, seconds in times.items())
            console.print(f"{mode}, seconds by {title}: {row}")


def _plot(found: dict[str, Any], path: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        from scanseg.contracts import MissingExtra

        raise MissingExtra("eval", "the plot of --sweep") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, title in zip(axes, ("labels", "regions"), strict=True):
        for mode, times in found[f"seconds_by_{title}"].items():
            axis.plot(list(times), list(times.values()), marker="o", label=mode)
        axis.set_xlabel(title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_xscale("log")
    axes[0].set_ylabel("seconds, photo to map")
    axes[1].set_ylabel("seconds, region classifier")
    axes[0].legend(title=found["preset"])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
