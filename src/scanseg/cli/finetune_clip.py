"""``scanseg finetune-clip``: mine pairs from captions, fine-tune the region CLIP, fuse it."""

from __future__ import annotations

import json as jsonlib
import sys
import warnings
from pathlib import Path

from scanseg.cli import EXIT_OK
from scanseg.cli.report_console import progress_bar
from scanseg.cli.training_progress import training_progress
from scanseg.contracts import InputError, ShiftSource


def mine(
    data: str,
    *,
    output: str,
    captions: str | None = None,
    images: str | None = None,
    preset: str = "embedded",
    weights: str | None = None,
    device: str = "auto",
    nouns: str | None = None,
    parser: str | None = None,
    captions_per_photo: int = 1,
    min_score: float = 0.0,
    min_area: float = 0.001,
    max_overlap: float = 0.8,
    per_photo: int = 8,
    per_noun: int | None = None,
    surroundings: bool = False,
    shard: int = 500,
    limit: int | None = None,
    seed: int = 0,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Find pairs of a masked crop and a noun in captioned photos.

    The nouns of a caption are looked for among the proposals of its photo: each takes the one whose
    masked crop the region CLIP finds most like it. Writes WebDataset shards, mining.json with
    counts, and contact_sheet.png: look at it before you train. A run that was killed goes on when
    the same command is given again.

    Args:
        data: folder with captions.json ({"stem": ["caption", ...]}) and images/
        output: folder for the pairs
        captions: captions elsewhere: such a file, or captions_train2017.json of COCO
        images: folder of the photos, if it is not DATA/images
        preset: model that proposes and matches: embedded, vit_b, vit_l, zero_train, tiny, a model
            folder or a hub id
        weights: folder with the weights of a preset that ships none
        device: auto, cpu, cuda, mps, cuda:1 ...
        nouns: a list of nouns of your own: text, one per line (default: the shipped 5,000)
        parser: a noun finder of your own in place of the list, as package.module.Name: caption ->
            list of nouns
        captions_per_photo: captions used of each photo, drawn with the seed
        min_score: least cosine of crop and noun; the quantiles in mining.json help to choose
        min_area: least share of the photo that a crop's mask covers, 0 to 1
        max_overlap: of two pairs of a photo whose masks overlap more (IoU), the worse one goes
        per_photo: most pairs of a photo
        per_noun: most pairs of a noun (default: no bound)
        surroundings: keep crops without their masks too (for shift source background; larger files)
        shard: photos in a shard
        limit: the first so many photos only
        seed: of the choice of captions
        json: print mining.json to standard output
        quiet: no progress bar
    """
    from scanseg.training.captions import read_captions
    from scanseg.training.mining import Miner, MiningSettings
    from scanseg.training.mining import mine as run
    from scanseg.vocabulary.nouns import load_nouns, noun_finder

    if nouns is not None and parser is not None:
        raise InputError("--nouns and --parser exclude each other: give one")
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, not {limit}")
    settings = MiningSettings(
        captions=captions_per_photo,
        min_score=min_score,
        min_area=min_area,
        max_overlap=max_overlap,
        per_image=per_photo,
        per_noun=per_noun,
        surroundings=surroundings,
        shard=shard,
        seed=seed,
    )
    finder = load_nouns(nouns) if parser is None else noun_finder(parser)
    folder = Path(data)
    photos = read_captions(captions or folder / "captions.json", images or folder / "images")
    photos = photos[:limit]
    from scanseg.presets import load
    from scanseg.training.mining import identity

    segmenter = load(preset, device=device, weights=weights)
    about = identity(segmenter, photos, parser or "nouns", finder)
    with progress_bar("photos", len(photos), quiet=quiet) as advance:
        summary = run(
            photos, Miner(segmenter, finder, settings), output, about=about, advance=advance
        )
    if json:
        print(jsonlib.dumps(summary, ensure_ascii=False, indent=2))
        return EXIT_OK
    left = ", ".join(f"{count} {what}" for what, count in summary["left out"].items() if count)
    print(
        f"{output}: {summary['pairs']} pairs of {summary['different nouns']} nouns from "
        f"{summary['photos with pairs']} of {len(photos)} photos; left out: {left or 'nothing'}"
    )
    print(f"look at {Path(output) / 'contact_sheet.png'}", file=sys.stderr)
    return EXIT_OK


def train(
    experiment: str,
    *,
    pairs: str | None = None,
    shift_source: ShiftSource | None = None,
    set_: list[str] = [],  # noqa: B006  (only read)
    output: str | None = None,
    resume: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> int:
    """Fine-tune the image tower of the region CLIP on mined pairs; the text tower is locked.

    Shipped experiments: clip_tiny (a CPU, a minute), clip_vit_b, clip_vit_l (8 GPUs; with one:
    --set trainer.devices=1 trainer.batch=32). The output folder gets checkpoints, a log in CSV,
    curves and clip/, the tower. A run that was killed goes on with --resume as if nothing had
    happened.

    Args:
        experiment: a YAML file or the name of a shipped experiment
        pairs: folder of scanseg finetune-clip mine
        shift_source: what contextual shift puts in place of background tokens (table 6): cls, none
            (no shift), noise, background, learnable
        set_: changes, as KEY.KEY=VALUE: clip.shift_ratio=0.3 trainer.seed=1
        output: folder of the run (default: scanseg_training/NAME)
        resume: go on from the newest good checkpoint in the output folder
        dry_run: show resolved settings, pairs, steps and parameters; train nothing
        quiet: no progress bar
    """
    from scanseg.training.config import load_experiment

    changes = list(set_)
    if pairs is not None:
        changes.append("clip.pairs=" + jsonlib.dumps(pairs))
    if shift_source is not None:
        changes.append(f"clip.shift_source={shift_source}")
    found = load_experiment(experiment, changes)
    if dry_run:
        from scanseg.training.clip_run import describe_clip, prepare_clip

        print(describe_clip(prepare_clip(found, describe=True)))
        return EXIT_OK
    from scanseg.training.clip_run import train_clip

    folder = Path(output or f"scanseg_training/{found.name or Path(experiment).stem}")
    warnings.filterwarnings("ignore", module=r"lightning(\.|$)")
    with training_progress("fine-tuning", quiet=quiet) as tell:
        tower = train_clip(found, folder, resume=resume, progress=tell)
    print(tower)
    return EXIT_OK


def fuse(model: str, clip: str, *, output: str) -> int:
    """Put a fine-tuned tower into a model as its region CLIP; SIM keeps the original CLIP.

    Args:
        model: preset with weights (tiny) or a model folder
        clip: folder of scanseg finetune-clip train
        output: folder of the new model, for scanseg segment --preset
    """
    from scanseg.training.clip_run import fuse_clip

    print(fuse_clip(model, clip, output))
    return EXIT_OK


COMMANDS = {"mine": mine, "train": train, "fuse": fuse}
