"""Hostile inputs over every parser, for any time: ``make fuzz SECONDS=3600``.

    python benchmarks/fuzz_parsers.py [--seconds 60 | --inputs 10000] [--seed 0] [--only photo]

The inputs are the seeds of every parser (``tests/support/fuzz``) and seeded changes of them. Each
must be read or refused with exactly one line, within 5 s of processor time and 2 GiB. Prints a
Markdown table; inputs that fail are kept in the folder of ``--keep`` and named. Exit code 1 if any
failed.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from fuzz.run import fuzz


def main() -> int:
    """Run, print the table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, help="stop after so long (default 60)")
    options.add_argument("--inputs", type=int, help="stop after so many inputs")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--first", type=int, default=0, help="index of each parser's first input")
    options.add_argument("--only", default="", help="part of the parsers' names")
    options.add_argument("--keep", type=Path, default=Path("fuzz_failures"))
    chosen = options.parse_args()
    if chosen.seconds is None and chosen.inputs is None:
        chosen.seconds = 60.0

    def advance(done: int) -> None:
        if done % 100 == 0:
            print(f"{done} inputs", file=sys.stderr, flush=True)

    tallies = fuzz(
        chosen.seed, inputs=chosen.inputs, seconds=chosen.seconds, only=chosen.only, first=chosen.first,  # noqa: E501
        keep=chosen.keep, advance=advance,
    )  # fmt: skip
    print(f"seed {chosen.seed}, Python {platform.python_version()}\n")
    print(
        "| parser | inputs | read | one line | faults | hangs | over 2 GiB | died | slowest, s | largest, MiB |"  # noqa: E501
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, t in tallies.items():
        print(
            f"| {name} | {t.inputs} | {t.read} | {t.refused} | {t.faults} | {t.hangs} | {t.too_large} "  # noqa: E501
            f"| {t.died} | {t.slowest:.2f} | {t.largest:.0f} |"
        )
    found = tallies.values()
    sums = [
        sum(getattr(t, k) for t in found)
        for k in ("inputs", "read", "refused", "faults", "hangs", "too_large", "died")
    ]
    print(
        f"| **all** | {' | '.join(map(str, sums))} | {max(t.slowest for t in found):.2f} | {max(t.largest for t in found):.0f} |"  # noqa: E501
    )
    for name, tally in tallies.items():
        for line in tally.lines[:50]:
            print(f"\n{name}: {line}", end="")
    print()
    return 1 if any(t.failures for t in found) else 0


if __name__ == "__main__":
    sys.exit(main())
