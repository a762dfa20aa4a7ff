"""Trainings as programs: the fields of a dataclass are the options."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

_C = TypeVar("_C")


def run_program(
    module: str,
    description: str | None,
    config: type[_C],
    train: Callable[[_C], Any],
    arguments: Sequence[str] | None,
) -> None:
    """Read options, log to standard error, train.

    Args:
        module: that ``python -m`` runs.
        description: for ``--help``.
        config: dataclass whose fields are the options; its docstring describes them.
        train: what to do.
        arguments: of the command line; ``None`` takes the process's.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_class_arguments(config)
    settings = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(config(**vars(parser.instantiate(settings))))
