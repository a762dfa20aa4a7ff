from __future__ import annotations

import pytest

from scanseg.web.limits import Refusal


@pytest.mark.parametrize(
    ("message", "error", "hint"),
    [
        ("the image has 9 pixels: enlarge it", "the image has 9 pixels", "enlarge it"),
        ("a.jpg: it has 9 pixels: enlarge it", "a.jpg: it has 9 pixels", "enlarge it"),
        (
            'labels have another shape: send ["cat"] or {"cat": [], "sofa": ["couch"]}',
            "labels have another shape",
            'send ["cat"] or {"cat": [], "sofa": ["couch"]}',
        ),
        ("a label is too long: 'abc: d'...", "a label is too long: 'abc: d'...", ""),
        ("the photo's size: 'a: b' is too much", "the photo's size", "'a: b' is too much"),
        ("busy", "busy", ""),
    ],
)
def test_a_message_is_cut_before_its_hint(message: str, error: str, hint: str) -> None:
    refusal = Refusal.of(422, message)
    assert (refusal.error, refusal.hint) == (error, hint)
