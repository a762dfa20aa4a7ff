"""Overlays: sizes, colours, text that appears where it should, and names in other scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from scanseg.contracts import InputError, Segmentation
from scanseg.formats.lettering import Lettering, shortened
from scanseg.formats.overlay import draw_overlay
from scanseg.formats.palette import label_colours


def segmentation(labels: np.ndarray, names: list[str], photo: int | None = 128) -> Segmentation:
    labels = labels.astype(np.int32)
    image = None if photo is None else np.full((*labels.shape, 3), photo, dtype=np.uint8)
    return Segmentation(labels, tuple(names), np.ones(labels.shape, np.float32), image=image)


def halves(height: int = 200, width: int = 300) -> np.ndarray:
    labels = np.zeros((height, width))
    labels[:, width // 2 :] = 1
    return labels


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_without_a_legend_the_picture_has_the_photos_size() -> None:
    for shape in ((1, 1), (3, 1000), (200, 300)):
        result = segmentation(np.zeros(shape), ["cat"])
        assert result.overlay(legend=False).size == (shape[1], shape[0])


@pytest.mark.parametrize(
    ("shape", "width", "height"),
    [  # of the picture above the legend: long side between 640 and 1600
        ((100, 200), 640, 320),
        ((900, 1200), 1200, 900),
        ((2000, 4000), 1600, 800),
    ],
)
def test_with_a_legend_text_can_be_read_at_any_size(
    shape: tuple[int, int], width: int, height: int
) -> None:
    picture = draw_overlay(segmentation(np.zeros(shape), ["cat"]))
    assert picture.width == width
    legend = picture.height - height
    assert 0.05 * width < legend < 0.15 * width
    assert pixels(picture)[-1].min() == 255  # white margin below


def test_narrow_photos_get_room_for_their_legend() -> None:
    picture = draw_overlay(segmentation(np.zeros((900, 60)), ["cat"]))
    assert picture.width > 400
    assert pixels(picture)[450, 10].tolist() == [255, 255, 255]
    assert pixels(picture)[450, picture.width // 2].tolist() != [255, 255, 255]


def test_colours_are_those_of_the_palette() -> None:
    flat = pixels(draw_overlay(segmentation(halves(), ["a", "b"]), opacity=1.0, legend=False))
    np.testing.assert_array_equal(flat[100, 50], label_colours(2)[0])
    np.testing.assert_array_equal(flat[100, 250], label_colours(2)[1])
    assert flat[100, 150].min() > 180  # the light line between them


def test_opacity_zero_shows_the_photo() -> None:
    result = segmentation(np.full((20, 20), -1), ["a"])
    np.testing.assert_array_equal(
        pixels(draw_overlay(result, opacity=0.0, legend=False)), np.full((20, 20, 3), 128)
    )
    half = pixels(draw_overlay(segmentation(np.zeros((20, 20)), ["a"]), opacity=0.5, legend=False))
    # photo 128 on its way to dim (0.75 * 128 + 12 = 108): 118; half of that, half of 60, 135, 225
    np.testing.assert_array_equal(half[10, 10], np.rint((118 + np.array([60, 135, 225])) / 2))


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_opacity_out_of_range(opacity: float) -> None:
    with pytest.raises(InputError, match=r"opacity must lie in \[0, 1\]"):
        draw_overlay(segmentation(halves(), ["a", "b"]), opacity=opacity)


def test_unknown_is_a_dark_grey_photo() -> None:
    result = segmentation(np.full((20, 20), -1), ["a"])
    result.image[:] = (200, 100, 50)
    shown = pixels(draw_overlay(result, legend=False))[10, 10]
    assert shown.max() < 100
    assert shown.max() - shown.min() < 15


def test_without_a_photo_the_colours_stand_alone() -> None:
    flat = pixels(draw_overlay(segmentation(halves(), ["a", "b"], None), legend=False))
    np.testing.assert_array_equal(flat[100, 50], label_colours(2)[0])


def test_the_strips_in_which_large_photos_are_painted_do_not_show() -> None:
    """A border looks the same wherever it lies, also where two strips of 512 rows meet."""
    seen = []
    for row in (500, 511, 512, 513):
        labels = np.zeros((1100, 64))
        labels[row:] = 1
        picture = pixels(draw_overlay(segmentation(labels, ["a", "b"]), legend=False))
        seen.append(picture[row - 10 : row + 10])
    assert all((other == seen[0]).all() for other in seen)
    assert len(np.unique(seen[0][:, 0], axis=0)) > 2  # there is a line between the two colours


def text_pixels(picture: Image.Image) -> np.ndarray:
    """Where the picture is nearly black or white: text with its outline (and border lines)."""
    values = pixels(picture)
    return (values.max(2) < 60) | (values.min(2) > 235)


def test_names_are_written_inside_their_segments_only() -> None:
    labels = np.zeros((480, 640))
    labels[:, :40] = 1  # too narrow for its name
    names = ["sky", "an interminable word"]
    above = text_pixels(draw_overlay(segmentation(labels, names)))[:480]
    assert above[:, 60:].any()
    assert not above[:, 2:36].any()
    rows, columns = np.nonzero(above[:, 60:])
    assert abs(rows.mean() - 240) < 10  # in the middle of its segment
    assert abs(columns.mean() + 60 - 340) < 15


def test_crumbs_of_a_label_get_no_name() -> None:
    checker = np.indices((12, 16)).sum(0) % 2  # squares of 40 x 40 pixels, half a percent each
    picture = draw_overlay(segmentation(checker.repeat(40, 0).repeat(40, 1), ["a", "b"]))
    assert pixels(picture)[:480].max(2).min() > 60  # not one dark outline


def test_the_legend_lists_the_largest_first() -> None:
    labels = np.zeros((480, 640))
    labels[:120] = 1
    labels[:12] = -1
    legend = pixels(draw_overlay(segmentation(labels, ["small", "large", "absent"])))[480:]
    one, two = label_colours(2)
    first = [int(np.argwhere((legend == c).all(2))[:, 1].min()) for c in (one, two, (48, 48, 48))]
    assert first == sorted(first)


def test_a_long_legend_is_cut() -> None:
    labels = np.arange(2000).reshape(40, 50).repeat(12, 0).repeat(12, 1)
    labels[-1, -1] = -1
    names = [f"word {i}" for i in range(2000)]
    picture = draw_overlay(segmentation(labels, names))
    assert picture.size[0] == 640
    assert picture.height < 512 * 1.8
    assert (pixels(picture)[520:] == (48, 48, 48)).all(2).any()  # unknown is never cut


def test_very_long_names_do_not_widen_the_picture() -> None:
    picture = draw_overlay(segmentation(halves(), ["x" * 300, "many words " * 27]))
    assert picture.width == 640
    margin = pixels(picture)[500:, 628:]
    assert margin.min() > 90  # nothing but the grey of the shares reaches the right margin


def test_every_label_count_and_nothing_found() -> None:
    for count in (1, 255, 2000):
        names = [str(i) for i in range(count)]
        draw_overlay(segmentation(np.full((30, 40), count - 1), names))
    draw_overlay(segmentation(np.full((30, 40), -1), ["cat"]))


def test_same_input_same_bytes() -> None:
    first, second = (draw_overlay(segmentation(halves(), ["a", "b"])).tobytes() for _ in range(2))
    assert first == second


# ------------------------------------------------------------------ names


def test_ascii_is_written_with_the_bundled_font() -> None:
    lettering = Lettering(["cat", "traffic light (red)"])
    assert lettering.names == ["cat", "traffic light (red)"]
    assert lettering.font(20, 0).getname()[0] == "Aileron"
    assert lettering.font(20, 0) is lettering.font(20)


def test_other_scripts_use_a_font_that_has_them_or_a_number() -> None:
    names = ["café", "дом", "猫", "\U0001f408"]
    lettering = Lettering(names)
    for index, (name, written) in enumerate(zip(names, lettering.names, strict=True)):
        assert written in (name, "cafe", f"label {index}")
        if written == name:
            assert lettering.font(20, index).getname()[0] != "Aileron"


def test_without_system_fonts_accents_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanseg.formats.lettering._SYSTEM_FONTS", ())
    assert Lettering(["café", "naïve", "猫", "ok"]).names == ["cafe", "naive", "label 2", "ok"]


def test_a_font_of_the_callers(tmp_path: Path) -> None:
    fonts = pytest.importorskip("matplotlib").get_data_path() + "/fonts/ttf/DejaVuSans.ttf"
    lettering = Lettering(["дом", "猫"], fonts)
    assert lettering.names[0] == "дом"
    assert lettering.font(20, 0).getname()[0] == "DejaVu Sans"
    (tmp_path / "font.ttf").write_text("no font")
    for wrong in (tmp_path / "font.ttf", tmp_path / "nope.ttf"):
        with pytest.raises(InputError, match=r"ttf cannot be read: pass a \.ttf"):
            Lettering(["a"], wrong)


def test_shortened() -> None:
    font = ImageFont.load_default(20)
    assert shortened("short", font, 1000) == "short"
    cut = shortened("a long sentence that does not fit", font, 100)
    assert cut.endswith("...")
    assert font.getlength(cut) <= 100
    assert font.getlength(cut) > 60
