"""Label colours: stable, different, and apart for people with a colour vision deficiency."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scanseg.formats.palette import UNKNOWN_COLOUR, label_colours


def test_colours_of_two_thousand_labels_differ() -> None:
    colours = label_colours(2000)
    assert colours.shape == (2000, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(np.vstack([colours, [UNKNOWN_COLOUR]]), axis=0)) == 2001


def test_a_longer_vocabulary_keeps_the_first_colours() -> None:
    many = label_colours(2000)
    for count in (0, 1, 24, 25, 300):
        np.testing.assert_array_equal(label_colours(count), many[:count])


def test_the_caller_cannot_spoil_later_palettes() -> None:
    label_colours(30)[:] = 0
    assert label_colours(30).max() > 0


def test_no_colour_is_too_dark_or_pale_to_see() -> None:
    grey = label_colours(2000) @ np.array([0.299, 0.587, 0.114])
    assert grey.min() > 50
    assert grey.max() < 245


# Machado, Oliveira and Fernandes 2009, full deficiency, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(colours: np.ndarray, vision: str) -> np.ndarray:
    """CIE L*a*b* as skimage has it, of colours as somebody sees them."""
    from skimage.color import rgb2lab

    values = colours / 255.0
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(VISION[vision]).T).clip(0, 1)
    srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return rgb2lab(srgb[None])[0]


@pytest.mark.parametrize(
    ("vision", "least"), [("normal", 16), ("protan", 8), ("deutan", 8), ("tritan", 8)]
)
def test_the_first_twenty_are_apart(vision: str, least: float) -> None:
    """A difference of 2.3 in L*a*b* is just noticeable."""
    seen = lab(label_colours(20), vision)
    apart = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert apart > least
