"""Join trained heads to one file: ``python -m scanseg.training.head_ensemble --help``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scanseg.contracts import InputError
from scanseg.proposals.dense_head import DenseHead, HeadEnsemble, load_dense_head
from scanseg.training.embedded_head import save_head
from scanseg.training.program import run_program

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnsembleConfig:
    """Heads that are to speak together.

    Args:
        heads: files that ``scanseg.training.embedded_head`` wrote, at least two.
        output: file to write.
    """

    heads: tuple[Path, ...]
    output: Path

    def __post_init__(self) -> None:
        if len(self.heads) < 2:
            raise InputError("an ensemble needs at least two heads")


def join(config: EnsembleConfig) -> Path:
    """Write the ensemble; returns its file.

    The cosine scale is the mean of the heads'; a word counts as taught if one of them was taught.

    Raises:
        InputError: a file is missing, is no head, or is an ensemble itself.
    """
    trained = [load_dense_head(path) for path in config.heads]
    heads = []
    for path, one in zip(config.heads, trained, strict=True):
        if not isinstance(one.head, DenseHead):
            raise InputError(f"{path} is an ensemble already: join the heads it was made of")
        heads.append(one.head)
    taught = {name: row for one in trained for name, row in zip(one.names, one.taught, strict=True)}
    names = sorted(taught)
    scale = sum(one.scale for one in trained) / len(trained)
    save_head(
        config.output,
        HeadEnsemble(heads),
        scale,
        names,
        torch.stack([taught[name] for name in names]),
        {"heads": [one.notes for one in trained]},
    )
    log.info("wrote %s (%.1f MB)", config.output, config.output.stat().st_size / 1e6)
    return config.output


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the fields of ``EnsembleConfig`` are the options."""
    run_program("scanseg.training.head_ensemble", __doc__, EnsembleConfig, join, arguments)


if __name__ == "__main__":
    main()
