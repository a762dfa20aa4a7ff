"""``scanseg score`` as a stranger uses it: folders in, one JSON object or one clear line out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.cli import main
from scanseg.contracts import Segmentation
from scanseg.evaluation.coco_maps import rasterise
from scanseg.evaluation.similarity import from_embeddings, load_similarity, similarity_json
from scanseg.formats.coco import to_coco
from scanseg.formats.records import encode_rle

NAMES = ["wall", "chair", "armchair"]
# By hand: hits 4, 2, 2; truth 5, 3, 3; predicted 4, 3, 3; one pixel unknown, one void.
TRUTH = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [2, 2, 2, 255]], np.uint8)
SAID = np.array([[0, 0, 0, 0], [255, 1, 2, 1], [2, 2, 1, 0]], np.uint8)
# wall 4/5, chair 2/4, armchair 2/4


class Folders:
    """Predictions, ground truth and labels on disk, and a call of the program on them."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys
        self.labels = root / "names.txt"
        self.labels.write_text("\n".join(NAMES) + "\n")
        self.put("truth", "one", TRUTH)
        self.put("said", "one", SAID)

    def put(self, folder: str, name: str, values: np.ndarray) -> Path:
        path = self.root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
        return path

    def run(self, *more: str, said: str = "said", truth: str = "truth") -> tuple[int, str, str]:
        paths = ["--predictions", str(self.root / said), "--ground-truth", str(self.root / truth)]
        labels = [] if "--labels" in more else ["--labels", str(self.labels)]
        code = main(["score", *paths, *labels, *more])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *more: str, **paths: str) -> dict:
        code, out, err = self.run("--json", "--replicates", "0", *more, **paths)
        assert code == 0, err
        return json.loads(out)

    def line(self, *more: str, **paths: str) -> str:
        """The one line of an error; nothing may be written."""
        before = sorted(self.root.rglob("*"))
        code, out, err = self.run("--output", str(self.root / "report"), *more, **paths)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert err.startswith("scanseg: ")
        assert sorted(self.root.rglob("*")) == before
        return err


@pytest.fixture
def folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folders:
    return Folders(tmp_path, capsys)


def test_one_object_in_percent_by_hand(folders: Folders) -> None:
    found = folders.json()
    assert found["miou_present"] == pytest.approx(100 * (0.8 + 0.5 + 0.5) / 3)
    assert found["miou_union"] == found["miou_present"]
    assert found["sg_iou_released"] == found["sg_iou_eq6_present"] == found["miou_present"]
    assert found["pacc"] == pytest.approx(100 * 8 / 11)
    assert found["macc"] == pytest.approx(100 * (4 / 5 + 2 / 3 + 2 / 3) / 3)
    assert found["fwiou"] == pytest.approx(100 * (5 * 0.8 + 3 * 0.5 + 3 * 0.5) / 11)
    assert found["unknown"] == pytest.approx(100 / 11)
    assert [row["name"] for row in found["per_class"]] == NAMES
    assert found["per_class"][0]["iou"] == pytest.approx(80)
    assert found["per_class"][1]["truth_pixels"] == 3
    assert found["images"] == 1
    assert found["pixels"] == 11


def test_a_hierarchy_gives_credit(folders: Folders) -> None:
    path = folders.root / "mine.json"
    path.write_text(
        json.dumps(
            {"version": "1", "labels": NAMES, "parents": {"armchair": ["chair"]}, "synonyms": {}}
        )
    )
    found = folders.json("--hierarchy", str(path))
    # one armchair pixel was called chair: 1 * (1 + 2) / 3 = 1, so (2 + 1) / 4, by both rules
    for rule in ("released", "eq6"):
        assert found["per_class"][2][f"sg_iou_{rule}"] == pytest.approx(75)
        assert found[f"sg_iou_{rule}"] == pytest.approx(100 * (0.8 + 0.5 + 0.75) / 3)
    assert found["specificity"]["shares"]["parent"] == pytest.approx(100 / 11)
    assert found["specificity"]["shares"]["child"] == pytest.approx(100 / 11)
    assert found["specificity"]["gain_from_parents"]["eq6_union"] == pytest.approx(25 / 3)
    assert found["baselines"]["always the parent"]["pacc"] == pytest.approx(100 * 8 / 11)


def test_the_released_evaluators_numbers(folders: Folders, shared: Path) -> None:
    """A reference confusion matrix as two label PNGs and a hierarchy file."""
    cases = json.loads((shared / "parity/sgiou_cases.json").read_text())
    case, names = cases["cases"][0], cases["class_names"]
    matrix = np.array(case["conf_matrix"])
    prediction, truth = (a.ravel() for a in np.indices(matrix.shape))
    counts = matrix.ravel()
    width = 400
    padding = -counts.sum() % width
    said = np.append(np.repeat(prediction, counts), np.zeros(padding, int)).reshape(-1, width)
    real = np.append(np.repeat(truth, counts), np.full(padding, 20)).reshape(-1, width)
    folders.put("said", "one", said.astype(np.uint8))
    folders.put("truth", "one", np.where(real == 20, 255, real).astype(np.uint8))
    folders.labels.write_text("\n".join(names))
    listed = {int(q): f if isinstance(f, list) else [f] for q, f in case["father_class"].items()}
    mutual = {q: f for q, f in listed.items() if any(q in listed.get(p, []) for p in f)}
    hierarchy = folders.root / "mine.json"
    hierarchy.write_text(
        json.dumps(
            {
                "version": "1",
                "labels": names,
                "parents": {
                    names[q]: [names[f] for f in fs] for q, fs in listed.items() if q not in mutual
                },
                "synonyms": {names[q]: [names[f] for f in fs] for q, fs in mutual.items()},
            }
        )
    )
    found = folders.json("--hierarchy", str(hierarchy))
    assert found["miou_union"] == pytest.approx(case["vanilla"]["mIoU"], rel=1e-12)
    assert found["fwiou"] == pytest.approx(case["vanilla"]["fwIoU"], rel=1e-12)
    assert found["macc"] == pytest.approx(case["vanilla"]["mACC"], rel=1e-12)
    assert found["pacc"] == pytest.approx(case["vanilla"]["pACC"], rel=1e-12)
    assert found["sg_iou_released"] == pytest.approx(case["sgiou"]["mIoU"], rel=1e-12)
    for row in found["per_class"]:
        expected = case["sgiou"][f"IoU-{row['name']}"]
        if expected is not None:
            assert row["sg_iou_released"] == pytest.approx(expected, rel=1e-12)


def test_neither_torch_nor_a_model_is_loaded(folders: Folders) -> None:
    code = (
        "import sys; from scanseg.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'timm', 'scanseg.segmenter'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    arguments = [
        "score", "--json", "--labels", str(folders.labels),
        "--output", str(folders.root / "report"),
        "--predictions", str(folders.root / "said"), "--ground-truth", str(folders.root / "truth"),
    ]  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["images"] == 1


# ------------------------------------------------------------------------------- codings


def test_palette_16_bit_and_own_maps_mean_the_same(folders: Folders) -> None:
    expected = folders.json()
    palette = Image.fromarray(SAID, "L").convert("P")
    palette.putdata(SAID.ravel().tolist())
    palette.putpalette([7, 7, 7] * 256)
    (folders.root / "palette").mkdir()
    palette.save(folders.root / "palette/one.png")
    wide = SAID.astype(np.uint16)
    wide[SAID == 255] = 65535
    folders.put("wide", "one", wide)
    labels = SAID.astype(np.int32)
    labels[SAID == 255] = -1
    shuffled = Segmentation(
        labels=np.array([2, 0, 1, -1], np.int32)[labels],
        names=("chair", "armchair", "wall"),
        confidence=np.ones(SAID.shape, np.float32),
    )
    (folders.root / "own").mkdir()
    shuffled.save(folders.root / "own/one.png")
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(folders.root / "own/one_overlay.png")
    for folder in ("palette", "wide", "own"):
        assert folders.json(said=folder)["per_class"] == expected["per_class"], folder


def test_offsets_and_official_values(folders: Folders) -> None:
    expected = folders.json()["per_class"]
    moved = np.where(TRUTH == 255, 0, TRUTH + 1).astype(np.uint8)
    folders.put("truth1", "one", moved)
    folders.put("said1", "one", np.where(SAID == 255, 0, SAID + 1).astype(np.uint8))
    assert folders.json("--reduce-zero", truth="truth1")["per_class"] == expected
    assert folders.json("--offset", "1", truth="truth1", said="said1")["per_class"] == expected
    both = ("--offset", "1", "--prediction-offset", "0")
    assert folders.json(*both, truth="truth1")["per_class"] == expected
    categories = folders.root / "categories.json"
    categories.write_text(json.dumps([{"id": 10 * i + 7, "name": n} for i, n in enumerate(NAMES)]))
    official = np.where(TRUTH == 255, 99, 10 * np.minimum(TRUTH, 2) + 7).astype(np.uint8)
    folders.put("official", "one", official)
    options = ("--labels", str(categories), "--ground-truth-values", "official", "--ignore", "99")
    with_ignored = np.where(SAID == 255, 99, SAID).astype(np.uint8)
    folders.put("said99", "one", with_ignored)
    assert folders.json(*options, truth="official", said="said99")["per_class"] == expected


def test_a_benchmarks_own_files_need_only_its_name(folders: Folders, shared: Path) -> None:
    truth = shared / "data/fixtures/ade20k_sceneparsing_sample/annotations"
    options = ("--labels", "ade150", "--ground-truth-values", "official", "--prediction-values")
    found = folders.json(*options, "official", truth=str(truth), said=str(truth))
    assert found["images"] == 3
    assert found["miou_union"] == found["pacc"] == 100
    assert len(found["per_class"]) == 150
    assert len(found["published"]) == 17  # table 1 has a dash for Group-VIT


def test_coco_panoptic_on_both_sides_gives_pq(folders: Folders, shared: Path) -> None:
    sample = shared / "data/fixtures/coco_panopticapi_sample/panoptic_examples.json"
    options = ("--labels", "coco_panoptic133")
    found = folders.json(*options, truth=str(sample), said=str(sample))
    assert found["panoptic"]["all"]["pq"] == 100
    assert found["miou_union"] == 100


def test_class_maps_against_panoptic_truth(folders: Folders) -> None:
    """Two dogs and a lawn; a class map finds the lawn, but its one dog segment matches neither."""
    ids = np.array([[1, 1, 2, 2], [3, 3, 3, 3], [0, 3, 3, 9]], np.uint8)
    (folders.root / "panoptic").mkdir()
    rgb = np.stack([ids, 0 * ids, 0 * ids], -1)
    Image.fromarray(rgb).save(folders.root / "panoptic/one.png")
    segments = [
        {"id": i, "category_id": 8 if i == 3 else 5, "iscrowd": i == 9} for i in (1, 2, 3, 9)
    ]
    categories = [
        {"id": 5, "name": "dog", "isthing": 1},
        {"id": 8, "name": "lawn", "isthing": 0},
    ]
    annotation = {"file_name": "one.png", "segments_info": segments}
    path = folders.root / "panoptic.json"
    path.write_text(json.dumps({"annotations": [annotation], "categories": categories}))
    labels = folders.root / "categories.json"
    labels.write_text(json.dumps(categories))
    folders.put("classes", "one", np.where(ids == 3, 1, 0).astype(np.uint8))
    found = folders.json("--labels", str(labels), truth=str(path), said="classes")
    assert found["miou_union"] == 100  # the crowd has its class, the pixel without segment is void
    assert found["pixels"] == 11
    panoptic = found["panoptic"]
    assert panoptic["objects"] is False
    assert panoptic["stuff"]["pq"] == 100
    # the dog segment covers the pixel of the crowd and both dogs: IoU 2/5, no match
    assert panoptic["things"]["pq"] == 0


def test_coco_masks_equal_label_maps(folders: Folders) -> None:
    expected = folders.json()["per_class"]
    labels = np.where(SAID == 255, -1, SAID.astype(np.int32))
    segmentation = Segmentation(labels, tuple(NAMES), np.ones(SAID.shape, np.float32))
    coco = to_coco(segmentation, image_id=5, file_name="one.jpg")
    path = folders.root / "coco.json"
    path.write_text(json.dumps(coco))
    assert folders.json(said=str(path))["per_class"] == expected
    # a bare list of results borrows the images of a COCO ground truth
    truth = {**coco, "annotations": []}
    for label in range(3):
        mask = encode_rle(label == TRUTH)
        truth["annotations"].append({"image_id": 5, "category_id": label + 1, "segmentation": mask})
    (folders.root / "truth.json").write_text(json.dumps(truth))
    results = [
        {k: a[k] for k in ("image_id", "category_id", "segmentation", "score")}
        for a in coco["annotations"]
    ]
    (folders.root / "results.json").write_text(json.dumps(results))
    categories = folders.root / "categories.json"
    categories.write_text(json.dumps(coco["categories"]))
    options = ("--labels", str(categories))
    found = folders.json(
        *options, said=str(folders.root / "results.json"), truth=str(folders.root / "truth.json")
    )
    assert found["per_class"] == expected


def test_polygons_and_run_lengths_are_read_as_pycocotools_reads_them() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    from scanseg.formats.records import decode_rle

    polygon = [[2.0, 2.0, 17.5, 3.0, 12.2, 14.9]]
    expected = coco.decode(coco.merge(coco.frPyObjects(polygon, 20, 25))).astype(bool)
    assert (rasterise(polygon, (20, 25)) == expected).all()
    mask = np.random.default_rng(0).random((20, 25)) < 0.4
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert (decode_rle({"size": [20, 25], "counts": theirs["counts"]}) == mask).all()
    assert encode_rle(mask)["counts"] == theirs["counts"].decode()


# ------------------------------------------------------------------------- further numbers


def test_split_similarity_and_boundary(folders: Folders) -> None:
    seen = folders.root / "seen.txt"
    seen.write_text("wall\nchair\n")
    similar = folders.root / "similar.json"
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 3, 4]], float)  # chair and armchair: 0.6
    similar.write_text(similarity_json(from_embeddings(vectors), NAMES, "by hand"))
    assert load_similarity(similar, NAMES[::-1])[0][0, 1] == pytest.approx(0.6)
    found = folders.json("--seen", str(seen), "--similarity", str(similar), "--boundary")
    assert found["split"]["seen_present"] == pytest.approx(65)
    assert found["split"]["harmonic_present"] == pytest.approx(2 * 65 * 50 / 115)
    # armchair: (2 + 0.6) / (3 + 0.4); chair the same; wall: 4 / 5
    assert found["open_miou"]["union"] == pytest.approx(100 * (0.8 + 2 * 2.6 / 3.4) / 3)
    assert found["per_class"][2]["open_iou"] == pytest.approx(100 * 2.6 / 3.4)
    assert 0 < found["boundary_f"] <= 100


def test_files_of_a_report(folders: Folders) -> None:
    photos = folders.root / "photos"
    photos.mkdir()
    Image.fromarray(np.full((3, 4, 3), 90, np.uint8)).save(photos / "one.jpg")
    code, out, err = folders.run("--output", str(folders.root / "r"), "--photos", str(photos))
    assert code == 0
    assert "mIoU, union" in out
    assert "report.html" in err
    content = json.loads((folders.root / "r/report.json").read_text())
    assert content["intervals"]["miou_union"] == pytest.approx([60, 60])  # one image, no doubt
    assert "| wall | 80.00 |" in (folders.root / "r/report.md").read_text()
    page = (folders.root / "r/report.html").read_text()
    assert "http" not in page  # needs nothing from elsewhere
    assert page.count("data:image/jpeg;base64,") == 4  # photo, truth, prediction, what differs
    assert sorted(p.name for p in (folders.root / "r").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]


def test_names_cannot_break_the_page(folders: Folders) -> None:
    folders.labels.write_text("wall <script>alert(1)</script>\nchair|seat\narmchair & co\n")
    code, _, _ = folders.run("--output", str(folders.root / "r"), "--replicates", "0")
    assert code == 0
    page = (folders.root / "r/report.html").read_text()
    assert "<script>alert" not in page
    assert "armchair &amp; co" in page
    assert "chair\\|seat" in (folders.root / "r/report.md").read_text()


def test_the_paired_test(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in map(str, range(12)):
        truth = rng.integers(0, 3, (20, 20)).astype(np.uint8)
        folders.put("t", name, truth)
        for folder, errors in (("good", 0.1), ("bad", 0.4)):
            wrong = rng.random(truth.shape) < errors
            folders.put(folder, name, np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8))
    base = ["score", "--ground-truth", str(folders.root / "t"), "--labels", str(folders.labels)]
    pair = ["--compare", str(folders.root / "good"), str(folders.root / "bad")]
    assert main([*base, *pair, "--json", "--replicates", "100"]) == 0
    found = json.loads(capsys.readouterr().out)
    gap = found["differences"]["miou_union"]
    assert gap["difference"] == pytest.approx(found["a"]["miou_union"] - found["b"]["miou_union"])
    assert 0 < gap["low"] < gap["difference"] < gap["high"]
    assert gap["p_value"] == pytest.approx(2 / 101)
    assert gap["first_wins"] == 100
    assert main([*base, *pair, "--output", str(folders.root / "r"), "--replicates", "20"]) == 0
    assert "good against bad" in capsys.readouterr().out
    assert (folders.root / "r/comparison.html").is_file()


def test_workers_do_not_change_anything(folders: Folders) -> None:
    rng = np.random.default_rng(1)
    for name in map(str, range(7)):
        folders.put("t", f"deep/{name}", rng.integers(0, 3, (9, 8)).astype(np.uint8))
        folders.put("s", f"deep/{name}", rng.integers(0, 3, (9, 8)).astype(np.uint8))
    one = folders.json("--workers", "1", truth="t", said="s")
    four = folders.json("--workers", "4", truth="t", said="s")
    assert one == four
    assert one["images"] == 7


# -------------------------------------------------------------------------------- mistakes


def test_sizes_that_differ(folders: Folders) -> None:
    folders.put("said", "one", SAID[:, :3])
    assert "one: the prediction is 3 x 3 pixels, the ground truth 4 x 3" in folders.line()
    folders.put("said", "one", SAID.T.copy())
    assert "transposed" in folders.line()


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.where(SAID == 255, 7, SAID), (), "value 7 is no class"),
        (np.where(SAID == 255, 3, SAID), (), "add --offset 1"),
        (np.where(SAID == 255, 255, SAID), ("--ignore", "9"), "add --ignore 255"),
        (np.repeat(SAID[..., None], 3, 2), (), "a colour PNG"),
        ((SAID * np.uint16(257)), (), "8-bit values scaled to 16 bits"),
    ],
)
def test_values_without_a_meaning(
    folders: Folders, values: np.ndarray, options: tuple[str, ...], message: str
) -> None:
    kind = np.uint16 if values.dtype == np.uint16 else np.uint8
    folders.put("said", "one", values.astype(kind))
    truth = np.where(TRUTH == 255, 9, TRUTH).astype(np.uint8)
    folders.put("truth9", "one", truth)
    line = folders.line(*options, truth="truth9" if options else "truth")
    assert message in line
    assert "one.png" in line


def test_8_bits_where_16_are_needed(folders: Folders) -> None:
    folders.labels.write_text("\n".join(f"class {i}" for i in range(300)))
    folders.put("truth", "one", TRUTH.astype(np.uint16))
    assert "an 8-bit PNG cannot hold 300 classes" in folders.line()


def test_maps_without_a_partner(folders: Folders) -> None:
    folders.put("truth", "two", TRUTH)
    folders.put("truth", "three", TRUTH)
    assert "2 of 3 ground-truth maps have no prediction: three, two" in folders.line()
    assert folders.json("--common")["images"] == 1
    folders.put("said", "four", SAID)
    assert folders.json("--common")["notes"][0].startswith("3 images are on one side only")
    (folders.root / "said/one.png").rename(folders.root / "said/other.png")
    assert "no prediction has the name of a ground-truth map" in folders.line()


def test_extra_predictions(folders: Folders) -> None:
    folders.put("said", "two", SAID)
    assert "1 of 2 predictions have no ground-truth map: two" in folders.line()


def test_empty_missing_and_damaged(folders: Folders) -> None:
    (folders.root / "empty").mkdir()
    assert "there is no PNG in this folder" in folders.line(said="empty")
    assert "no such folder" in folders.line(said="nowhere")
    whole = (folders.root / "said/one.png").read_bytes()
    (folders.root / "said/one.png").write_bytes(whole[: len(whole) // 2])
    assert "one.png: damaged" in folders.line()
    (folders.root / "said/one.png").write_bytes(b"hello")
    assert "not a PNG" in folders.line()
    folders.put("said", "one", SAID)
    folders.put("truth", "one", np.full_like(TRUTH, 255))
    assert "no pixel has a ground truth" in folders.line()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": "1", "labels": ["wall", "chair", "armchair"], '
         '"parents": {"chair": ["armchair"], "armchair": ["chair"]}}', "cycle"),
        ('{"version": "1", "labels": ["wall", "chair", "armchair"], '
         '"parents": {"chair": ["wall"], "chair": ["armchair"]}}', "twice"),
        ('{"version": "1", "labels": ["wall"], "parents": {}}', "does not know 'chair'"),
        ('{"version": "1", "labels": ["wall"], "parents": {"wall": ["roof"]}}', "roof"),
        ("not json", "not JSON"),
    ],
)  # fmt: skip
def test_hierarchies_that_cannot_be_used(folders: Folders, text: str, message: str) -> None:
    path = folders.root / "bad.json"
    path.write_text(text)
    assert message in folders.line("--hierarchy", str(path))


def test_own_maps_with_other_words(folders: Folders) -> None:
    segmentation = Segmentation(
        np.zeros(SAID.shape, np.int32), ("sofa",), np.ones(SAID.shape, np.float32)
    )
    segmentation.save(folders.root / "said/one.png")
    assert "made with the word 'sofa', which is not among the 3 labels" in folders.line()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": [{"category_id": 1}]}, "category_id and segmentation"),
        ([{"image_id": 1, "category_id": 1, "segmentation": {}}], "image 1 of an entry"),
        ({"annotations": [], "categories": [{"id": 1, "name": "x"}]}, "none of its 1 categories"),
        ({"images": [{"id": 1}], "annotations": []}, "an image needs id"),
        ({"hello": 1}, "not a COCO file"),
        (
            {
                "images": [{"id": 1, "file_name": "one.jpg", "height": 3, "width": 4}],
                "annotations": [
                    {
                        "image_id": 1,
                        "category_id": 1,
                        "segmentation": {"size": [3, 4], "counts": [5]},
                    }
                ],
            },
            "a mask of one is damaged",
        ),
    ],
)
def test_coco_files_that_cannot_be_used(folders: Folders, content: object, message: str) -> None:
    path = folders.root / "bad.json"
    path.write_text(json.dumps(content))
    assert message in folders.line(said=str(path))


def test_options_that_contradict(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give it alone" in folders.line("--reduce-zero", "--offset", "1")
    assert "goes with values by index" in folders.line(
        "--offset", "1", "--ground-truth-values", "official"
    )
    assert "is the value of class 'chair'" in folders.line("--ignore", "1")
    assert "either --predictions" in folders.line("--compare", "a", "b")
    assert "0..255" in folders.line("--offset", "-1")
    seen = folders.root / "seen.txt"
    seen.write_text("sofa\n")
    assert "no class 'sofa'" in folders.line("--seen", str(seen))
    seen.write_text(similarity_json(np.eye(1), ["wall"], "x"))
    assert "has no label 'chair'" in folders.line("--similarity", str(seen))
    base = ["score", "--ground-truth", "x", "--labels", str(folders.labels)]
    assert main([*base, "--compare", "a"]) == 2
    assert "two folders, not 1" in capsys.readouterr().err
