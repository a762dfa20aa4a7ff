"""What a person types in Python: iteration, names, notebooks, plots, the pipeline, types."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scanseg
from scanseg.contracts import InputError, Segmentation, UnknownName

ROOT = Path(__file__).parents[1]


@pytest.fixture
def out() -> Segmentation:
    labels = np.array([[0, 0, 2], [0, 2, -1]], np.int32)
    image = np.full((2, 3, 3), 100, np.uint8)
    return Segmentation(
        labels, ("sky", "tree", "house"), np.full((2, 3), 0.5, np.float32), image=image
    )


def test_iteration_and_names(out: Segmentation) -> None:
    assert [s.name for s in out] == ["sky", "house"]
    assert out["sky"].mask.tolist() == [[True, True, False], [True, False, False]]
    assert out["house"].area == 2
    assert "sky" in out
    assert "tree" not in out
    assert "cloud" not in out
    assert 0 not in out


def test_a_word_that_was_not_found_is_an_empty_segment(out: Segmentation) -> None:
    tree = out["tree"]
    assert (tree.label, tree.name, tree.score, tree.area) == (1, "tree", 0.0, 0)
    assert tree.bbox == (0, 0, 0, 0)
    assert tree.mask.shape == (2, 3)
    assert not tree.mask.any()


def test_a_name_that_is_no_word(out: Segmentation) -> None:
    with pytest.raises(UnknownName) as caught:
        out["hose"]
    assert str(caught.value) == (
        "'hose' is not one of the words (did you mean 'house'?): sky, tree, house"
    )
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, KeyError)
    with pytest.raises(UnknownName, match=r"^7 is not one"):
        out[7]  # type: ignore[index]
    many = Segmentation(out.labels, tuple(f"w{i}" for i in range(20)), out.confidence)
    with pytest.raises(UnknownName, match=r"w7 and 12 more$"):
        many["nothing"]


def test_notebooks_show_the_overlay(out: Segmentation) -> None:
    picture = Image.open(BytesIO(out._repr_png_()))
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(out.overlay()))


def test_plot(out: Segmentation) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = out.plot()
    texts = [t.get_text() for t in axes.get_legend().get_texts()]
    assert texts == ["sky 50%", "house 33%", "unknown 17%"]
    (shown,) = axes.get_images()
    np.testing.assert_array_equal(shown.get_array(), np.asarray(out.overlay(legend=False)))
    _, own = pyplot.subplots()
    assert out.plot(own, opacity=1.0) is own
    pyplot.close("all")


def test_plot_without_matplotlib(out: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"scanseg\[eval\]"):
        out.plot()


def test_pipeline_answers_like_transformers() -> None:
    from skimage import data

    photo = Image.fromarray(data.coffee())
    pipe = scanseg.pipeline("image-segmentation", model="tiny")
    answer = pipe(photo, candidate_labels=["cup", "table", "spoon"])
    expected = pipe.model(photo, ["cup", "table", "spoon"])
    assert [entry["label"] for entry in answer] == [s.name for s in expected]
    for entry, segment in zip(answer, expected, strict=True):
        assert set(entry) == {"label", "score", "mask"}
        assert entry["score"] == segment.score
        assert entry["mask"].mode == "L"
        assert entry["mask"].size == photo.size
        np.testing.assert_array_equal(np.asarray(entry["mask"]), segment.mask * 255)
    pair = pipe([photo, photo], candidate_labels=["cup"], subtask="instance", threshold=0.5)
    assert len(pair) == 2
    regions = [s for s in pipe.model(photo, ["cup"]).instances() if s.score >= 0.5]
    assert [e["score"] for e in pair[0]] == [s.score for s in regions]


def test_pipeline_mistakes() -> None:
    with pytest.raises(InputError, match="not 'depth-estimation'"):
        scanseg.pipeline("depth-estimation")
    pipe = scanseg.pipeline(model="tiny")
    with pytest.raises(InputError, match="'semantic' or 'instance', not 'panoptic'"):
        pipe("x.png", ["a"], subtask="panoptic")  # type: ignore[arg-type]


def test_importing_the_pipeline_is_light() -> None:
    code = (
        "import sys; from scanseg import pipeline; "
        "print([m for m in ('torch', 'transformers', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


USER_CODE = """\
import numpy as np
import scanseg
from scanseg.formats.datasets import write_dataset

seg = scanseg.Segmenter.from_pretrained("embedded")
out: scanseg.Segmentation = seg("photo.jpg", ["cat", "sofa"])
areas: dict[str, int] = {segment.name: segment.area for segment in out}
mask: np.ndarray = out["cat"].mask
for instance in out.instances(min_area=50):
    name: str = instance.name
write_dataset("coco", "out", [("photo.jpg", out)], things=["cat"])
reveal_type(out["cat"])
reveal_type(out.panoptic()[0])
wrong: int = out["cat"].name
"""


def test_types_reach_a_users_checker(tmp_path: Path) -> None:
    """``py.typed`` lies in the package, so mypy checks the user's lines against our annotations."""
    pytest.importorskip("mypy")
    import scanseg.contracts

    assert (Path(scanseg.contracts.__file__).parent / "py.typed").is_file()
    (tmp_path / "user.py").write_text(USER_CODE)
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\nwarn_return_any = false\ndisallow_any_generics = false\n"
        + "".join(
            f"[mypy-{name}.*]\nignore_missing_imports = true\nfollow_imports = skip\n"
            for name in ("torch", "torchvision", "skimage", "scipy", "transformers", "open_clip")
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "user.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if "user.py" in line]
    assert lines == [
        'note: Revealed type is "scanseg.contracts.Segment"',
        'note: Revealed type is "scanseg.contracts.Segment"',
        "error: Incompatible types in assignment "
        '(expression has type "str", variable has type "int")  '
        "[assignment]",
    ], done.stdout
