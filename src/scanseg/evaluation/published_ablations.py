"""The ablations of the SCAN paper (tables 3 to 8, ViT-L, mIoU in percent), as printed there."""

from __future__ import annotations

COLUMNS = ("ade150", "ade847", "pc59")
"""Label sets of the columns."""

_NO_SHIFT = (
    "The paper prints two numbers for no contextual shift on ADE-150: 32.7 in table 6, 32.9 in "
    "tables 3 (+ SIM) and 7."
)
NOTES = {3: _NO_SHIFT, 6: _NO_SHIFT, 7: _NO_SHIFT}
"""Table -> what to know about its numbers."""

ABLATIONS: dict[int, dict[str, tuple[float, float, float]]] = {
    3: {
        "Baseline": (31.5, 11.4, 57.1),
        "+ SIM": (32.9, 13.3, 58.6),
        "+ CS": (32.8, 12.6, 58.3),
        "+ Both": (33.5, 14.0, 59.3),
    },
    4: {
        "none": (31.5, 11.4, 57.1),
        "F_CLS": (32.5, 12.7, 57.5),
        "F_HW": (32.0, 11.9, 57.5),
        "F_CLS, F_HW": (32.6, 13.0, 58.1),
        "F_HW, LFE": (32.4, 12.2, 57.7),
        "F_CLS, F_HW, LFE": (32.9, 13.3, 58.6),
    },
    5: {
        "15, 18, 21 / 7, 5, 3": (32.5, 12.9, 58.3),
        "15, 18, 21 / 9, 7, 3": (32.4, 13.0, 58.5),
        "12, 18, 24 / 7, 5, 3": (33.3, 13.6, 58.9),
        "12, 18, 24 / 9, 7, 3": (33.5, 14.0, 59.3),
        "12, 18, 24 / 11, 9, 7": (33.0, 13.4, 58.4),
    },
    6: {
        "None": (32.7, 13.3, 58.6),
        "Random noise": (32.3, 13.0, 57.8),
        "Original background": (32.3, 13.1, 58.0),
        "Learnable prompt": (33.1, 13.2, 58.8),
        "SCAN": (33.5, 14.0, 59.3),
    },
    7: {
        "no shift": (32.9, 13.3, 58.6),
        "1, 3, 5, 7, 9 / 10 %": (33.5, 13.6, 59.4),
        "1, 3, 5, 7, 9 / 20 %": (33.1, 13.8, 59.5),
        "1, 3, 5, 7, 9 / 30 %": (33.5, 14.0, 59.3),
        "1, 3, 5, 7, 9 / 40 %": (32.9, 13.6, 59.3),
        "1, 3, 5, 7 / 30 %": (32.8, 13.6, 59.0),
        "1, 2, 3, 4, 5 / 30 %": (32.2, 13.2, 58.9),
        "11, 13, 15, 17, 19 / 30 %": (32.2, 12.0, 59.1),
        "1, 3, 5, 7, 9, 11, 13, 15 / 30 %": (32.2, 12.0, 59.0),
    },
    8: {
        "Baseline, only mask embedding": (24.8, 9.3, 56.7),
        "Baseline, only CLIP embedding": (27.7, 10.0, 48.2),
        "Baseline, both": (31.5, 11.4, 57.1),
        "SCAN, only mask embedding": (26.3, 11.1, 57.9),
        "SCAN, only CLIP embedding": (28.9, 10.4, 49.9),
        "SCAN, both": (33.5, 14.0, 59.3),
    },
}
"""Table -> row -> percent on ``COLUMNS``."""


def published_ablation(table: int, row: str, label_set: str) -> float | None:
    """The paper's number; ``None`` where it has none."""
    numbers = ABLATIONS.get(table, {}).get(row)
    if numbers is None or label_set not in COLUMNS:
        return None
    return numbers[COLUMNS.index(label_set)]
