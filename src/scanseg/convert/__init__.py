"""Checkpoints of others -> our model folders (``scanseg convert``).

What is understood: a SCAN segmentation model as its authors release it, alone or with a fine-tuned
region CLIP beside it; and, as starting points of training, OpenCLIP models and Swin backbones.
Every name in a file is accounted for: converted, split, replaced or ignored with a reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from scanseg.contracts import InputError
from scanseg.convert import architecture as arch
from scanseg.convert.checkpoints import Checkpoint, read_checkpoint
from scanseg.convert.names import (
    FINETUNED_CLIP_PREFIX,
    HUB_SWIN_RULES,
    OPEN_CLIP_RULES,
    SCAN_RULES,
    SWIN_RULES,
    TIMM_SWIN_RULES,
    Rule,
    find_rule,
)
from scanseg.storage import file_hash, write_json
from scanseg.weights import CONFIG, NOTICE, PARTS, save_folder

Kind = Literal["auto", "scan", "finetuned_clip", "open_clip", "swin"]
"""What a checkpoint is; ``"auto"`` looks at the names in it."""

Action = Literal["converted", "split", "replaced", "ignored"]

REPORT = "conversion.json"
FORMAT = "scanseg-model/1"

_TITLES: Mapping[str, str] = {
    "scan": "SCAN segmentation model",
    "finetuned_clip": "fine-tuned region CLIP",
    "open_clip": "OpenCLIP model",
    "swin": "Swin backbone",
}

SCAN_NOTICE = """\
# Terms of these weights

Converted by `scanseg convert` from official SCAN checkpoints (Liu et al., "Open-Vocabulary
Segmentation with Semantic-Assisted Calibration", CVPR 2024). Converting changes names and layout,
not the terms: **the weights stay under CC BY-NC 4.0**, for non-commercial use with attribution to
their authors. The Apache-2.0 licence of the scanseg code does not extend to them.

They contain a CLIP of OpenCLIP (tag datacomp_xl_s13b_b90k), a Swin-B pre-trained on ImageNet-22k,
and were trained on COCO-Stuff and COCO Captions; the terms of those apply as well.

Sources:
"""

START_NOTICE = """\
# Terms of these weights

Converted by `scanseg convert` as a starting point of training. Converting changes names and layout,
not the terms: the weights keep the licence of the files they come from. The Apache-2.0 licence of
the scanseg code does not extend to them.

Sources:
"""


@dataclass(frozen=True)
class Piece:
    """A weight of ours: a tensor of a checkpoint, or one of equal parts along its first axis."""

    source: Mapping[str, Tensor]
    name: str
    shape: tuple[int, ...]
    index: int = 0
    parts: int = 1

    def read(self) -> Tensor:
        """The values, in ``shape``."""
        tensor = self.source[self.name]
        part = tensor.chunk(self.parts)[self.index] if self.parts > 1 else tensor
        return part.reshape(self.shape)


class Pieces(Mapping[str, Tensor]):
    """Weights of ours by name, read from their checkpoints when they are asked for."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        self._pieces = pieces

    def __getitem__(self, name: str) -> Tensor:
        return self._pieces[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


@dataclass(frozen=True)
class Entry:
    """What became of one weight of a checkpoint.

    Attributes:
        file: name of the checkpoint's file.
        name: the weight's name in it.
        action: what was done.
        targets: our names for it.
        reason: why it was ignored or replaced.
    """

    file: str
    name: str
    action: Action
    targets: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class Report:
    """An account of a conversion; ``text`` for people, ``to_dict`` for machines."""

    folder: Path
    preset: str | None
    sources: list[dict[str, Any]]
    entries: list[Entry] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; every weight has its entry."""
        return {
            "folder": str(self.folder),
            "preset": self.preset,
            "sources": self.sources,
            "counts": dict(Counter(e.action for e in self.entries)),
            "entries": [asdict(e) for e in self.entries],
        }

    def text(self) -> str:
        """A page for people."""
        lines = [f"{self.folder}: {'preset ' + self.preset if self.preset else 'no preset'}"]
        for source in self.sources:
            lines.append(f"from {source['file']}: {_TITLES[source['kind']]}")
        made = Counter(
            next(part for part in PARTS if target.startswith(part))
            for entry in self.entries
            if entry.action in ("converted", "split")
            for target in entry.targets
        )
        lines.append(f"written: {sum(made.values())} weights")
        lines += [f"  {count:5d}  {part:13s} {PARTS[part]}" for part, count in made.items()]
        split = sum(e.action == "split" for e in self.entries)
        if split:
            lines.append(f"  {split} of the checkpoint's were split into query, key and value")
        for action in ("replaced", "ignored"):
            reasons = Counter(e.reason for e in self.entries if e.action == action)
            if reasons:
                lines.append(f"{action}: {sum(reasons.values())} weights")
                lines += [f"  {count:5d}  {reason}" for reason, count in reasons.items()]
        lines.append(f"terms of use: {self.folder / NOTICE}")
        lines.append(f"every weight by name: {self.folder / REPORT}")
        if self.preset:
            lines.append(
                f'next: scanseg segment photo.jpg "cat" "sofa" '
                f"--preset {self.preset} --weights {self.folder}"
            )
        return "\n".join(lines)


def convert(
    checkpoints: Sequence[str | Path],
    output: str | Path,
    *,
    kind: Kind = "auto",
    ignore_unknown: bool = False,
    overwrite: bool = False,
) -> Report:
    """Convert checkpoints to one model folder.

    Memory: the files are mapped, weights are written one by one, so the peak stays near the size of
    the largest checkpoint. Number types are kept as they are; loading casts them.

    Args:
        checkpoints: a SCAN segmentation model, with its fine-tuned CLIP beside it or fused into it;
            or an OpenCLIP model, a Swin backbone or both, as a starting point.
        output: the folder to make.
        kind: of the checkpoints; ``"auto"`` looks at the names in each.
        ignore_unknown: leave out names that no rule knows, and say so in the report, where they
            would otherwise be an error.
        overwrite: replace a model that is already in ``output``.

    Raises:
        InputError: a file cannot be read or is something else, a weight is missing, unknown or of a
            wrong shape, or the files do not belong together.
    """
    output = Path(output)
    if not checkpoints:
        raise InputError("name at least one checkpoint file")
    if (output / CONFIG).exists() and not overwrite:
        raise InputError(f"{output} already holds a model; choose another folder or --overwrite")
    read = [read_checkpoint(path) for path in checkpoints]
    kinds = [_detect(c) if kind == "auto" else kind for c in read]
    for name in _TITLES:
        if kinds.count(name) > 1:
            raise InputError(f"more than one of the files is a {_TITLES[name]}; give one of each")
    sources = [
        {"file": c.path.name, "kind": k, "sha256": file_hash(c.path)}
        for c, k in zip(read, kinds, strict=True)
    ]
    by_kind = dict(zip(kinds, read, strict=True))
    report = Report(output, None, sources)
    if "scan" in by_kind:
        if {"open_clip", "swin"} & by_kind.keys():
            raise InputError(
                "a SCAN model brings its own CLIP and backbone; give it alone or with its "
                "fine-tuned CLIP"
            )
        state, config = _scan(by_kind, report, ignore_unknown)
        notice = SCAN_NOTICE
    elif "finetuned_clip" in by_kind:
        raise InputError(
            f"{by_kind['finetuned_clip'].path.name} is a fine-tuned region CLIP, one part of SCAN; "
            "give the segmentation model beside it"
        )
    else:
        state, config = _starting_point(by_kind, report, ignore_unknown)
        notice = START_NOTICE
    notice += "".join(f"- {s['file']}, sha256 {s['sha256']}\n" for s in sources)
    save_folder(output, Pieces(state), {"format": FORMAT, **config, "sources": sources}, notice)
    write_json(output / REPORT, report.to_dict())
    return report


def _scan(
    by_kind: Mapping[str, Checkpoint], report: Report, ignore_unknown: bool
) -> tuple[dict[str, Piece], dict[str, Any]]:
    """A whole model, its region CLIP replaced by the fine-tuned one if there is one."""
    scan = by_kind["scan"]
    state = _rename(scan, _same(scan), SCAN_RULES, report, ignore_unknown)
    if "finetuned_clip" in by_kind:
        _replace_region_clip(state, by_kind["finetuned_clip"], scan, report, ignore_unknown)
    if "void" in state:
        void = state["void"]
        state["void"] = replace(void, shape=(math.prod(void.shape),))  # (1, D) -> (D,)
    shapes = _shapes(state)
    source = scan.path.name
    try:
        found = arch.describe_scan(shapes)
    except KeyError as error:
        raise InputError(
            f"{source} is not whole: {error.args[0]} missing; get the complete checkpoint"
        ) from error
    arch.check_scan(shapes, found, source)
    report.preset = arch.preset_of(found)
    config = {
        "preset": report.preset,
        "license": "CC-BY-NC-4.0",
        "architecture": found,
    }
    return state, config


def _replace_region_clip(
    state: dict[str, Piece],
    finetuned: Checkpoint,
    scan: Checkpoint,
    report: Report,
    ignore_unknown: bool,
) -> None:
    """Put the fine-tuned CLIP in place of the region CLIP, never of the original one."""
    names = {
        name: "clip_adapter.clip_model." + FINETUNED_CLIP_PREFIX.sub("", name, count=1)
        for name in finetuned.tensors
        if FINETUNED_CLIP_PREFIX.match(name)
    }
    others = [n for n in finetuned.tensors if not FINETUNED_CLIP_PREFIX.match(n)]
    if others and not ignore_unknown:
        raise InputError(_unknown(finetuned, others))
    new = _rename(finetuned, names, SCAN_RULES, report, ignore_unknown)
    _ignore(report, finetuned, others, "unknown, left out as asked")
    visual = "region_clip.model.visual."
    lacking = [n for n in state if n.startswith(visual) and n not in new]
    if lacking:
        raise InputError(
            f"{finetuned.path.name} is not whole: its image tower lacks {lacking[0]} and "
            f"{len(lacking) - 1} more; get the complete checkpoint"
        )
    replaced = {t for t in new if t in state}
    report.entries = [
        Entry(e.file, e.name, "replaced", e.targets, f"by {finetuned.path.name}")
        if e.file == scan.path.name and set(e.targets) & replaced
        else e
        for e in report.entries
    ]
    state.update(new)


def _starting_point(
    by_kind: Mapping[str, Checkpoint], report: Report, ignore_unknown: bool
) -> tuple[dict[str, Piece], dict[str, Any]]:
    """Parts of a model to begin training with."""
    state: dict[str, Piece] = {}
    found: dict[str, Any] = {}
    if "open_clip" in by_kind:
        checkpoint = by_kind["open_clip"]
        names = {n: n.removeprefix("module.") for n in checkpoint.tensors}
        clip = _rename(checkpoint, names, OPEN_CLIP_RULES, report, ignore_unknown)
        shapes = _shapes(clip)
        try:
            found["clip"] = arch.describe_clip(shapes)
        except KeyError as error:
            raise InputError(
                f"{checkpoint.path.name} is no vision transformer of OpenCLIP with both towers: "
                f"it has no {error.args[0].removeprefix('region_clip.model.')}"
            ) from error
        arch.check_clip(shapes, found["clip"], checkpoint.path.name)
        visual = "region_clip.model.visual."
        state.update(clip)
        state.update(
            {
                "clip.model.visual." + n.removeprefix(visual): t
                for n, t in clip.items()
                if n.startswith(visual)
            }
        )
    if "swin" in by_kind:
        checkpoint = by_kind["swin"]
        swin = _rename(
            checkpoint, _same(checkpoint), _swin_layout(checkpoint), report, ignore_unknown
        )
        shapes = _shapes(swin)
        try:
            found["backbone"] = arch.describe_swin(shapes)
        except KeyError as error:
            raise InputError(
                f"{checkpoint.path.name} is not whole: no {error.args[0]}; get the complete file"
            ) from error
        arch.check_swin(shapes, found["backbone"], checkpoint.path.name)
        state.update(swin)
    return state, {
        "preset": None,
        "license": "as the sources",
        "contains": sorted({n.split(".")[0] for n in state}),
        "architecture": found,
    }


def _rename(
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    rules: Sequence[Rule],
    report: Report,
    ignore_unknown: bool,
) -> dict[str, Piece]:
    """Apply the rules to every name; note each in the report.

    Args:
        checkpoint: where the tensors are.
        names: name in the checkpoint -> name that the rules are about.
    """
    state: dict[str, Piece] = {}
    unknown: list[str] = []
    file, tensors = checkpoint.path.name, checkpoint.tensors
    shape_of = getattr(tensors, "shape", lambda name: tuple(tensors[name].shape))
    for name, known_as in names.items():
        found = find_rule(known_as, rules)
        if found is None:
            unknown.append(name)
            continue
        rule, targets = found
        if not targets:
            report.entries.append(Entry(file, name, "ignored", (), rule.reason))
            continue
        shape, parts = shape_of(name), len(targets)
        if parts > 1:
            if not shape or shape[0] % parts:
                raise InputError(f"{file}: {name} of shape {shape} does not split in {parts}")
            shape = (shape[0] // parts, *shape[1:])
        for index, target in enumerate(targets):
            if target in state:
                raise InputError(f"{file}: {name} is there twice under different names")
            state[target] = Piece(tensors, name, shape, index, parts)
        action: Action = "converted" if parts == 1 else "split"
        report.entries.append(Entry(file, name, action, targets))
    if unknown and not ignore_unknown:
        raise InputError(_unknown(checkpoint, unknown))
    _ignore(report, checkpoint, unknown, "unknown, left out as asked")
    _ignore(report, checkpoint, checkpoint.beside, "beside the weights: state of the training run")
    return state


def _same(checkpoint: Checkpoint) -> dict[str, str]:
    return {name: name for name in checkpoint.tensors}


def _ignore(report: Report, checkpoint: Checkpoint, names: Sequence[str], reason: str) -> None:
    report.entries += [Entry(checkpoint.path.name, n, "ignored", (), reason) for n in names]


def _unknown(checkpoint: Checkpoint, names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"{checkpoint.path.name} has weights that no rule knows: {', '.join(names[:3])}{more}; "
        "--ignore-unknown leaves them out"
    )


def _detect(checkpoint: Checkpoint) -> str:
    """What a checkpoint is, from the names in it."""
    names = {n.removeprefix("module.") for n in checkpoint.tensors}
    if any(n.startswith(("sem_seg_head.", "clip_adapter.")) for n in names):
        return "scan"
    if any(n.startswith("clip_model.visual.") for n in names):
        return "finetuned_clip"
    if "visual.conv1.weight" in names:
        return "open_clip"
    if names & {"patch_embed.proj.weight", "swin.embeddings.patch_embeddings.projection.weight"}:
        return "swin"
    some = ", ".join(sorted(names)[:3])
    expected = ", ".join(k for k in get_args(Kind) if k != "auto")
    raise InputError(
        f"{checkpoint.path.name} is none of {expected}: its weights are called {some[:200]}"
    )


def _swin_layout(checkpoint: Checkpoint) -> Sequence[Rule]:
    names = checkpoint.tensors.keys()
    if any(n.startswith("swin.") for n in names):
        return HUB_SWIN_RULES
    if any(n.startswith("layers.3.downsample.") for n in names):
        return TIMM_SWIN_RULES
    return SWIN_RULES


def _shapes(state: Mapping[str, Piece]) -> dict[str, tuple[int, ...]]:
    return {name: piece.shape for name, piece in state.items()}
