"""``scanseg segment`` from the command line to the files, with the real (random) ``tiny`` model."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.cli import main
from scanseg.formats.png import load_indexed_png
from scanseg.formats.records import decode_rle


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(path: str | Path, size: tuple[int, int] = (48, 32), seed: int = 0) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).save(path)
    return path


def segment(*arguments: str) -> int:
    return main(["segment", "--preset", "tiny", "--device", "cpu", *arguments])


def files(folder: str | Path = "scanseg_output") -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def contents(folder: str | Path) -> dict[str, bytes]:
    return {name: Path(folder, name).read_bytes() for name in files(folder)}


# ------------------------------------------------------------------ one photo


def test_three_files_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    photo("Füße 猫.jpg")
    assert segment("Füße 猫.jpg", "cat", "sofa") == 0
    assert files() == ["Füße 猫.json", "Füße 猫.png", "Füße 猫_overlay.png"]
    labels, names = load_indexed_png("scanseg_output/Füße 猫.png")
    assert labels.shape == (32, 48)
    assert names == ("cat", "sofa")
    record = json.loads(Path("scanseg_output/Füße 猫.json").read_text("utf-8"))
    assert record["image"] == {"width": 48, "height": 32, "name": "Füße 猫.jpg"}
    assert record["labels"] == ["cat", "sofa"]
    assert record["settings"]["preset"] == "tiny"
    for found in record["segments"]:
        mask = decode_rle(found["segmentation"])
        np.testing.assert_array_equal(mask, labels == found["label"])
    with Image.open("scanseg_output/Füße 猫_overlay.png") as overlay:
        assert overlay.width == 640
    said = capsys.readouterr()
    assert said.out == ""
    assert "Füße 猫.jpg, 48 x 32" in said.err
    assert "Füße 猫_overlay.png" in said.err


def test_the_map_is_in_the_photos_upright_frame() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save("phone.jpg", exif=exif)
    assert segment("phone.jpg", "cat", "--quiet") == 0
    assert load_indexed_png("scanseg_output/phone.png")[0].shape == (40, 20)


def test_same_input_same_bytes() -> None:
    photo("a.png")
    segment("a.png", "cat", "dog", "--output", "one")
    segment("a.png", "cat", "dog", "--output", "two")
    assert contents("one") == contents("two")
    assert len(contents("one")) == 3


def test_options_between_photos_and_words_and_words_with_dashes() -> None:
    photo("a.png")
    assert segment("a.png", "--quiet", "cat", "--output", "o", "dog", "--", "--weird") == 0
    assert load_indexed_png("o/a.png")[1] == ("cat", "dog", "--weird")


def test_words_that_look_like_other_things_stay_words() -> None:
    photo("a.png")
    words = ["null", "true", "1e3", "a: b", "[x]", "{y}", "no", "3.0"]
    assert segment("a.png", *words, "--quiet") == 0
    assert load_indexed_png("scanseg_output/a.png")[1] == tuple(words)


def test_words_from_an_option_and_from_a_file() -> None:
    photo("a.png")
    Path("words.txt").write_text("sofa: couch\ncat\n", encoding="utf-8")
    assert segment("a.png", "--labels-file", "words.txt", "--output", "o1", "--quiet") == 0
    assert load_indexed_png("o1/a.png")[1] == ("sofa", "cat")
    assert segment("a.png", "--labels", "traffic light, cat", "--output", "o2", "--quiet") == 0
    assert load_indexed_png("o2/a.png")[1] == ("traffic light", "cat")


def test_settings_reach_the_model() -> None:
    photo("a.png")
    options = {
        "unknown_below": 1.0,
        "semantics": "paper",
        "branches": "embedding",
        "ensemble_weight": 0.25,
        "mask_threshold": 0.125,
        "shift_source": "noise",
        "shift_ratio": 0.5,
        "shift_seed": 7,
    }
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert segment("a.png", "cat", "dog", "--log-fusion", "--quiet", *given) == 0
    record = json.loads(Path("scanseg_output/a.json").read_text())
    used = record["settings"]["inference"]
    assert {name: used[name] for name in options} == options
    assert used["log_fusion"] is True
    assert record["unknown_share"] > 0.9  # hardly a pixel is certain


def test_background_words_are_passed_on() -> None:
    photo("a.png")
    scores = []
    for background, output in (("none", "o1"), ("wall, floor, sky, grass", "o2")):
        segment("a.png", "cat", "dog", "--background", background, "--output", output, "--quiet")
        found = json.loads(Path(output, "a.json").read_text())["segments"]
        scores.append(max(segment["score"] for segment in found))
    assert scores[0] > scores[1] + 0.05  # more words share the evidence


# ------------------------------------------------------------------ standard input and output


class Stdin(io.TextIOWrapper):
    """Standard input that holds a photo."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))


def test_a_photo_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(photo("a.png").read_bytes()))
    assert segment("-", "cat", "--quiet") == 0
    assert files() == ["stdin.json", "stdin.png", "stdin_overlay.png"]


def test_the_map_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    photo("a.png")
    assert segment("a.png", "cat", "--output", "-") == 0
    said = capfdbinary.readouterr()
    assert not Path("scanseg_output").exists()
    with Image.open(io.BytesIO(said.out)) as image:
        assert image.size == (48, 32)
        assert json.loads(image.text["scanseg"])["names"] == ["cat"]


def test_a_pipe_through_a_process_of_its_own(here: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "scanseg", "segment", "-", "cat", "--preset=tiny", "--output=-"],
        input=photo("a.png").read_bytes(),
        capture_output=True,
        check=True,
    )
    assert Image.open(io.BytesIO(run.stdout)).size == (48, 32)
    assert b"standard input, 48 x 32" in run.stderr


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    photo("p/a.png")
    photo("p/b.png", (20, 10))
    Path("p/c.jpg").write_text("no image")
    assert segment("p", "cat", "--json") == 3
    said = capsys.readouterr()
    a, b, c = map(json.loads, said.out.splitlines())
    assert a["photo"] == "p/a.png"
    assert a["files"] == {}
    assert a["image"] == {"width": 48, "height": 32, "name": "a.png"}
    assert b["image"]["width"] == 20
    assert c["photo"] == "p/c.jpg"
    assert "is not an image" in c["error"]
    assert not Path("scanseg_output").exists()


def test_json_with_files(capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    assert segment("a.png", "cat", "--json", "--output", "o", "--quiet") == 0
    line = json.loads(capsys.readouterr().out)
    assert line["files"] == {
        "map": os.path.join("o", "a.png"),
        "overlay": os.path.join("o", "a_overlay.png"),
        "record": os.path.join("o", "a.json"),
    }
    assert files("o") == ["a.json", "a.png", "a_overlay.png"]
    record = json.loads(Path("o/a.json").read_text())
    assert {key: line[key] for key in record} == record


# ------------------------------------------------------------------ many photos


def test_one_bad_photo_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    photo("p/a.png")
    Path("p/b.jpg").write_bytes(photo("whole.jpg", (64, 64)).read_bytes()[:700])
    Path("p/c.gif").touch()
    photo("p/d.png", seed=1)
    assert segment("p", "cat") == 3
    assert [f for f in files() if f.endswith(".json")] == ["a.json", "d.json"]
    said = capsys.readouterr().err
    assert "2 of 4 photos done" in said
    assert "2 could not be done:" in said
    assert f"{os.path.join('p', 'b.jpg')} is truncated or damaged" in said
    assert f"{os.path.join('p', 'c.gif')} is empty" in said


def test_a_name_that_is_no_text(here: Path) -> None:
    source = photo("a.png").read_bytes()
    try:
        Path(os.fsdecode(b"bad\xff.png")).write_bytes(source)
    except OSError:
        pytest.skip("this file system takes text only")
    assert segment("bad*.png", "cat") == 0
    (written,) = Path("scanseg_output").glob("*.json")
    assert os.fsencode(written.name) == b"bad\xff.json"
    assert json.loads(written.read_text("utf-8"))["image"]["name"] == "bad\udcff.png"


def test_failures_are_told_even_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    photo("p/a.png")
    Path("p/b.jpg").touch()
    assert segment("p", "cat", "--quiet") == 3
    assert capsys.readouterr().err.splitlines() == [
        "1 could not be done:",
        f"  {os.path.join('p', 'b.jpg')} is empty (0 bytes)",
    ]


def test_folders_and_patterns_keep_their_folders() -> None:
    photo("x/1.png")
    photo("y/z/1.png", seed=1)
    assert segment("x", "y/**/*.png", "cat", "--quiet") == 0
    assert [f for f in files() if f.endswith(".json")] == ["x/1.json", "y/z/1.json"]


def test_results_that_exist_are_refused_before_any_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo("a.png")
    photo("b.png")
    assert segment("b.png", "cat", "--quiet") == 0
    before = contents("scanseg_output")
    assert segment("a.png", "b.png", "cat", "--preset", "no-such-model") == 2
    assert "b.png exists (and 2 more): use --overwrite, --skip-existing" in capsys.readouterr().err
    assert contents("scanseg_output") == before


def test_overwrite() -> None:
    photo("a.png")
    assert segment("a.png", "cat", "--quiet") == 0
    assert segment("a.png", "dog", "--quiet", "--overwrite") == 0
    assert load_indexed_png("scanseg_output/a.png")[1] == ("dog",)


def test_skip_existing_does_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    photo("p/a.png")
    photo("p/b.png", seed=1)
    assert segment("p/a.png", "cat", "--quiet") == 0
    stamp = Path("scanseg_output/a.json").stat().st_mtime_ns
    assert segment("p", "cat", "--skip-existing") == 0
    assert "1 of 2 photos done; 1 skipped" in capsys.readouterr().err
    assert Path("scanseg_output/a.json").stat().st_mtime_ns == stamp
    assert Path("scanseg_output/b.json").exists()
    Path("scanseg_output/a.json").unlink()  # as if the run had been stopped before it
    assert segment("p", "cat", "--skip-existing") == 0
    assert "1 of 2 photos done; 1 skipped" in capsys.readouterr().err
    assert segment("p/a.png", "cat", "--skip-existing") == 0
    assert "skipped: its results exist" in capsys.readouterr().err


def test_skip_existing_keeps_nothing_of_other_words_or_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo("p/a.png")
    photo("p/b.png", seed=1)
    assert segment("p/a.png", "cat", "--quiet") == 0
    before = contents("scanseg_output")
    for source in ("p", "p/a.png"):
        assert segment(source, "dog", "--skip-existing") == 2
        told = "a.json was made with other labels: use --overwrite, or another --output"
        assert told in capsys.readouterr().err
        assert segment(source, "cat", "--skip-existing", "--unknown-below", "0.5") == 2
        assert "was made with other settings (unknown_below)" in capsys.readouterr().err
        assert segment(source, "cat", "--skip-existing", "--background", "sky") == 2
        assert "a.json was made with other background: use" in capsys.readouterr().err
    record = Path("scanseg_output/a.json")
    record.write_bytes(before["a.json"].replace(b'"preset": "tiny"', b'"preset": "vit_l"'))
    assert segment("p", "cat", "--skip-existing") == 2
    assert "was made with another preset" in capsys.readouterr().err
    record.write_bytes(before["a.json"].replace(b'"float32"', b'"bfloat16"'))
    assert segment("p", "cat", "--skip-existing") == 2
    assert "was made with other settings (precision)" in capsys.readouterr().err
    for unreadable in (b"", b"[]", b'{"labels": ["dog"]}'):
        record.write_bytes(unreadable)
        assert segment("p/a.png", "cat", "--quiet", "--skip-existing") == 0
        assert contents("scanseg_output") == before


def test_a_name_that_is_too_long_for_results(capsys: pytest.CaptureFixture[str]) -> None:
    whole = photo("p/z.png").read_bytes()
    fits, too_long = "f" * 240, "l" * 245  # with _overlay.png: 252 and 257
    Path("p", f"{fits}.png").write_bytes(whole)
    Path("p", f"{too_long}.png").write_bytes(whole)
    for more in ([], ["--skip-existing"]):
        assert segment("p", "cat", "--quiet", *more) == 3
        assert "l_overlay.png is too long for the name of a file" in capsys.readouterr().err
        assert [f for f in files() if f.endswith(".json")] == [f"{fits}.json", "z.json"]
        assert len(files()) == 6  # and nothing of the other one


def test_an_interrupt_leaves_finished_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    import scanseg.cli.segment as command

    photo("p/a.png")
    photo("p/b.png", seed=1)
    read, opened = command._read, []

    def interrupted(photo_file: object) -> object:
        opened.append(photo_file)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return read(photo_file)

    monkeypatch.setattr(command, "_read", interrupted)
    assert segment("p", "cat", "--quiet") == 130
    assert files() == ["a.json", "a.png", "a_overlay.png"]


def test_a_photo_that_does_not_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from scanseg.segmenter import Segmenter

    photo("p/a.png", (480, 320))
    photo("p/b.png")
    call = Segmenter.__call__

    def crowded(self: Segmenter, source: object, *args: object, **options: object) -> object:
        if source.pixels.shape[0] > 100:
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
        return call(self, source, *args, **options)

    monkeypatch.setattr(Segmenter, "__call__", crowded)
    assert segment("p", "cat", "--quiet") == 3
    assert "a.png needs more memory than there is" in capsys.readouterr().err
    assert "b.json" in files()
    assert segment("p/a.png", "cat") == 2  # a photo alone
    assert capsys.readouterr().err.startswith("scanseg: a.png needs more memory")


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cat", "dog"], "no photo was given: 'cat'"),
        (["a.png"], "no words were given"),
        (["missing.png", "cat"], "missing.png does not exist"),
        (["bad.jpg", "cat"], "bad.jpg is not an image"),
        (["a.png", "cat", "--overwrite", "--skip-existing"], "exclude each other"),
        (["a.png", "--labels", "a", "--labels-file", "w"], "exclude each other"),
        (["a.png", "cat", "--json", "--output", "-"], "both write to standard output"),
        (["a.png", "b.png", "cat", "--output", "-"], "holds the map of one photo, not of 2"),
        (["a.png", "cat", "--output", "."], "would replace a photo"),
        (["a.png", "cat", "--output", "bad.jpg"], "cannot be written"),
        (["a.png", "cat", "--unknown-below", "1.5"], "unknown_below must lie in"),
        (["a.png", "cat", "--shift-ratio", "x"], "--shift-ratio cannot be 'x': give a number"),
        (["a.png", "cat", "--branches", "neither"], "give one of both, embedding, clip"),
        (["a.png", ""], "a label is empty"),
        (["a.png", "cat", "--operating-point", "ade150"], "has no operating point 'ade150'"),
        (["a.png", "cat", "--preset", "tinny"], "tinny"),
        (["a.png", "cat", "--skip-exsting"], "did you mean '--skip-existing'"),
        (["a.png", "cat", "--font", "nope.ttf", "--preset", "no-such"], "nope.ttf cannot be read"),
        (["a.png", "cat", "--device", "abacus"], "cannot use device 'abacus'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo("a.png")
    photo("b.png")
    Path("bad.jpg").write_text("no image")
    assert segment(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert line in said.err
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("scanseg: ")


def test_a_folder_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    locked = here / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    try:
        if os.access(locked, os.W_OK):
            pytest.skip("this user may write everywhere")
        assert segment("a.png", "cat", "--output", "locked") == 2
        assert "cannot be written" in capsys.readouterr().err
    finally:
        locked.chmod(0o755)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--labels-file", "--json", "--output", "--skip-existing", "--unknown-below"):
        assert option in text
    assert "Photos come first, then words" in text
