"""Measure a trained dense head, pixel by pixel and without proposals.

    python benchmarks/evaluate_head.py HEAD.safetensors --data DIR [--teachers DIR]

The tests use no photo that a held-out run was trained on: the 133 COCO names and everyday scene
words on fully labelled photos, the 20 VOC names with decoys for the background, CamVid's 11 names,
clothes and parts of persons, and withheld words if the head was trained without some. For each: the
head with its affinities (``--affinity none``: without) alone, ConSE alone, and their geometric
ensemble; with ``--teachers`` also the scene teacher on the everyday words.
With ``--public`` everything goes through ``Segmenter`` instead, as a user's call does: proposals,
both branches, decoys for whatever none of the words explains, full resolution, 95 % intervals over
photos; and, for the VOC names, whether a word that is (not) in the photo is said to be there.
``--settings``, ``--region-resize`` and ``--long-side`` try other values than the preset's, and
``--dense-weight`` several in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scanseg import Segmenter, presets
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.metrics.bootstrap import ImageCounts, bootstrap, paired_bootstrap
from scanseg.metrics.confusion import PairCounts
from scanseg.proposals.dense_head import TrainedHead, load_dense_head
from scanseg.recipe import Resize
from scanseg.training.embedded_head import TEMPLATES
from scanseg.training.head_photos import held_out
from scanseg.training.head_vocabularies import COCO133, VOCABULARIES
from scanseg.training.teachers import Teacher

LONG_SIDE = 640
CLOTHING_STEP = 4
EVERYDAY = {
    "sky": ("sky",),
    "building": ("building", "house"),
    "road": ("road",),
    "sidewalk": ("pavement",),
    "tree": ("tree",),
    "grass": ("grass",),
    "car": ("car",),
    "person": ("person",),
    "floor": ("floor", "wood floor"),
    "wall": ("wall", "brick wall", "stone wall", "tile wall", "wood wall"),
    "door": ("door",),
    "window": ("window",),
}
"""Everyday scene words -> COCO names that they cover."""


@dataclass(frozen=True)
class Rule:
    """How head and ConSE are combined: p_k = p_head^(1-w) * p_conse^w, w by the label's nearness.

    Attributes:
        head, conse: factors on the cosines before the softmax.
        seen, unseen: w of labels whose nearness to the taught words reaches ``near``, and of the
            others.
        near: cosine.
        decoy: taken off the log probability of decoy words.
    """

    head: float = 16.0
    conse: float = 24.0
    seen: float = 0.15
    unseen: float = 0.7
    near: float = 0.8
    decoy: float = 0.0

    def __str__(self) -> str:
        scales = f"head {self.head:.4g}, ConSE {self.conse:g}"
        return f"{scales}, w {self.seen:g}/{self.unseen:g} at {self.near:g}, decoys -{self.decoy:g}"


@dataclass
class Test:
    """Photos with truth, and the words that are asked for.

    Attributes:
        name: of the test.
        words: the queries; label k of the truth is word k.
        others: further queries that all count as label ``len(words)`` ("something else").
        items: (photo, (H, W) truth with 255 = ignore).
        decoys: add the COCO names whose cosine with every word is below this as others.
        with_others: whether "something else" is one of the scored classes.
        groups: name -> labels, for means over parts of the words.
    """

    name: str
    words: list[str]
    others: list[str]
    items: list[tuple[Path, np.ndarray]]
    decoys: float | None = None
    with_others: bool = False
    groups: dict[str, list[int]] = field(default_factory=dict)


def coco_names() -> list[str]:
    """The 133 names as a person would type them."""
    return [words[0] for words in COCO133]


def tests(
    data: Path, camvid_step: int, withheld: Sequence[str], camvid_split: str
) -> Iterator[Test]:
    """All tests; those of withheld words only for a head that was trained without some."""
    coco = data / "coco_train"
    away = held_out(data)
    names = coco_names()

    def photo(stem: str) -> Path:
        return coco / "images" / f"{stem}.jpg"

    def labels(stem: str) -> np.ndarray:
        return np.asarray(Image.open(coco / "labels" / f"{stem}.png"))

    panoptic = [(photo(stem), labels(stem)) for stem in away["panoptic_full"]]
    yield Test("coco133", names, [], panoptic)

    voc_table = (coco / "coco_to_voc20.csv").read_text(encoding="utf-8").splitlines()[1:]
    voc_of = {row.split(",")[2]: row.split(",")[1] for row in voc_table}  # COCO id -> VOC name
    voc_ids = sorted(int(i) for i in voc_of)
    things = np.full(256, 20, np.uint8)
    for number, coco_id in enumerate(voc_ids):
        things[coco_id + 1] = number
    things[255] = 255
    yield Test(
        "voc21",
        [voc_of[str(i)] for i in voc_ids],
        [name for i, name in enumerate(names) if i not in voc_ids and name != "table"],
        [
            (photo(stem), things[np.asarray(Image.open(coco / "labels_things" / f"{stem}.png"))])
            for stems in away.values()
            for stem in stems
        ],
        with_others=True,
    )

    everyday = np.full(256, len(EVERYDAY), np.uint8)
    for number, covered in enumerate(EVERYDAY.values()):
        everyday[[names.index(name) for name in covered]] = number
    everyday[255] = 255
    mapped = [(path, everyday[truth]) for path, truth in panoptic]
    only = [(path, np.where(truth == len(EVERYDAY), 255, truth)) for path, truth in mapped]
    yield Test("everyday", list(EVERYDAY), [], only)
    yield Test("everyday in a whole photo, no decoys", list(EVERYDAY), [], mapped)
    for near in (0.4, 0.5, 0.6):
        name = f"everyday in a whole photo, decoys below {near}"
        yield Test(name, list(EVERYDAY), [], mapped, decoys=near)

    if withheld:
        every = [(photo(stem), labels(stem)) for stems in away.values() for stem in stems]
        unseen = [names.index(word) for word in withheld]
        seen = [i for i in range(len(names)) if i not in unseen]
        groups = {"withheld": unseen, "taught": seen}
        yield Test("withheld and taught together", names, [], every, groups=groups)
        alone = np.full(256, 255, np.uint8)
        alone[unseen] = np.arange(len(unseen))
        only = [(path, alone[truth]) for path, truth in every]
        yield Test("withheld alone", list(withheld), [], only)

    clothing = data / "clothing_coparsing"
    listed = (clothing / "splits" / "test.txt").read_text(encoding="utf-8").split()
    table = (clothing / "classes.txt").read_text(encoding="utf-8").splitlines()
    parts = []
    for stem in listed[::CLOTHING_STEP]:
        truth = np.array(Image.open(clothing / "labels" / f"{stem}.png"))
        truth[truth == 0] = 255  # background names no kind of thing
        parts.append((clothing / "images" / f"{stem}.jpg", truth))
    yield Test("parts of persons", [line.split("\t")[1] for line in table], [], parts)

    camvid = data / "camvid"
    listed = (camvid / "splits" / f"{camvid_split}.txt").read_text(encoding="utf-8").split()
    stems = listed[::camvid_step]
    yield Test(
        "camvid",
        [line.split("\t")[1] for line in (camvid / "classes.txt").read_text().splitlines()],
        [],
        [
            (
                camvid / "images" / f"{stem}.jpg",
                np.asarray(Image.open(camvid / "labels" / f"{stem}.png")),
            )
            for stem in stems
        ],
    )


class Embedder:
    """Encoder and head on a photo, and words as text embeddings; words are kept."""

    def __init__(
        self, encoder: EmbeddedEncoder, head: TrainedHead, segmenter: Segmenter, long_side: int
    ) -> None:
        self.encoder, self.trained, self.long_side = encoder, head, long_side
        self.proposals, self.layers = segmenter.proposals, segmenter.recipe.token_layers
        self.known: dict[str, Tensor] = {}
        self.seen: dict[Path, tuple[Tensor, Tensor, tuple[float, float]]] = {}

    def text(self, words: Sequence[str]) -> Tensor:
        """(K, D), unit norm: mean of the templates."""
        new = [word for word in dict.fromkeys(words) if word not in self.known]
        if new:
            prompts = [template.format(word) for word in new for template in TEMPLATES]
            rows = self.encoder.encode_text(prompts).view(len(new), len(TEMPLATES), -1).mean(1)
            self.known.update(zip(new, F.normalize(rows, dim=-1), strict=True))
        return torch.stack([self.known[word] for word in words])

    def decoys(self, words: Sequence[str], near: float) -> list[str]:
        """COCO names that are far (cosine below ``near``) from every one of the words."""
        names = coco_names()
        close = (self.text(names) @ self.text(words).T).amax(1)
        return [name for name, cosine in zip(names, close.tolist(), strict=True) if cosine < near]

    @torch.inference_mode()
    def maps(self, path: Path) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """Head and ConSE maps (1, D, rows, columns), and the share of the grid that is photo."""
        if path not in self.seen:
            head, conse, share = self._maps(path)
            self.seen[path] = (head.half(), conse.half(), share)  # several tests share photos
        head, conse, share = self.seen[path]
        return head.float(), conse.float(), share

    def _maps(self, path: Path) -> tuple[Tensor, Tensor, tuple[float, float]]:
        with Image.open(path) as file:
            photo = file.convert("RGB")
        scale = self.long_side / max(photo.size)
        size = (round(photo.size[0] * scale), round(photo.size[1] * scale))
        pixels = torch.from_numpy(np.array(photo.resize(size, Image.Resampling.BICUBIC)))
        tokens = self.encoder.encode_image(pixels.permute(2, 0, 1)[None], layers=self.layers)
        assert tokens.dense is not None
        rows, columns = tokens.grids[1]
        share = (size[1] / (rows * 8), size[0] / (columns * 8))
        return self.proposals.dense_map(tokens)[0], tokens.dense, share


def at_points(
    values: Tensor, shape: tuple[int, int], stride: int, share: tuple[float, float]
) -> Tensor:
    """(1, K, rows, columns) map -> (K, points) at every ``stride``-th pixel of the truth."""
    height, width = shape
    y = (torch.arange(stride // 2, height, stride) + 0.5) / height * share[0] * 2 - 1
    x = (torch.arange(stride // 2, width, stride) + 0.5) / width * share[1] * 2 - 1
    where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]  # (1, h, w, 2) x, y
    return F.grid_sample(values, where, padding_mode="border", align_corners=False)[0].flatten(1)


@torch.inference_mode()
def confusions(
    test: Test, embedder: Embedder, rules: Sequence[Rule], stride: int
) -> list[np.ndarray]:
    """One [prediction][truth] confusion matrix per rule."""
    others = test.others
    if test.decoys is not None:
        others = embedder.decoys(test.words, test.decoys)
    queries = test.words + others
    text = embedder.text(queries)
    nearness = embedder.trained.nearness(text)
    count = len(test.words) + 1
    matrices = [np.zeros((count, count), np.int64) for _ in rules]
    for path, truth in test.items:
        head, conse, share = embedder.maps(path)
        head_cos = at_points(torch.einsum("bdyx,kd->bkyx", head, text), truth.shape, stride, share)
        conse_cos = at_points(
            torch.einsum("bdyx,kd->bkyx", conse, text), truth.shape, stride, share
        )
        true = truth[stride // 2 :: stride, stride // 2 :: stride].reshape(-1)
        keep = torch.from_numpy(true != 255)
        true = true[true != 255].astype(np.int64)
        head_cos, conse_cos = head_cos[:, keep], conse_cos[:, keep]
        for rule, matrix in zip(rules, matrices, strict=True):
            w = torch.where(nearness >= rule.near, rule.seen, rule.unseen)[:, None]
            score = (1 - w) * (rule.head * head_cos).log_softmax(0)
            score += w * (rule.conse * conse_cos).log_softmax(0)
            if test.decoys is not None:
                score[len(test.words) :] -= rule.decoy
            predicted = score.argmax(0).clamp_max(count - 1).numpy()
            matrix += np.bincount(predicted * count + true, minlength=count**2).reshape(
                count, count
            )
    return matrices


SCENE_TEACHER = {"building": ("building", "cottage"), "window": ("window pane",)}
"""Everyday words -> the scene teacher's classes, where they are not called the same."""


def teacher_confusion(test: Test, teachers: Path, stride: int) -> np.ndarray:
    """[prediction][truth] of the scene teacher on the everyday words; its other classes miss."""
    names = [words[0] for words in VOCABULARIES["ade31"]]
    label = np.full(len(names) + 1, len(test.words))
    for number, word in enumerate(test.words):
        label[[names.index(name) + 1 for name in SCENE_TEACHER.get(word, (word,))]] = number
    teacher, count = Teacher(teachers, "ade31"), len(test.words) + 1
    matrix = np.zeros((count, count), np.int64)
    for path, truth in test.items:
        with Image.open(path) as file:
            answer = Image.fromarray(teacher(file.convert("RGB")))
        answer = answer.resize(truth.shape[::-1], Image.Resampling.NEAREST)
        predicted = label[np.asarray(answer)[::stride, ::stride]].reshape(-1)
        true = truth[::stride, ::stride].reshape(-1).astype(np.int64)
        keep = true != 255
        pairs = predicted[keep] * count + true[keep]
        matrix += np.bincount(pairs, minlength=count**2).reshape(count, count)
    return matrix


PRESENT_SHARE = 0.005
"""Share of the photo that a word must get to count as "it is there"."""


def public(test: Test, segmenter: Segmenter, other: Segmenter | None = None) -> dict[str, object]:
    """A test through the public path: mIoU with its interval and how well the map says whether a
    word is in the photo at all; with another segmenter also the difference to its mIoU, paired."""
    images, there = counted(test, segmenter)
    count = len(test.words)

    def miou(matrix: np.ndarray) -> dict[str, float]:
        return {"mIoU": float(np.nanmean(ious(matrix[: count + 1], test.with_others)))}

    interval = bootstrap(images, miou)["mIoU"]
    every = ious(images.total()[: count + 1], test.with_others)
    groups = {
        name: round(float(np.nanmean(every[ids])), 4) for name, ids in test.groups.items() if ids
    }
    against = {}
    if other is not None:
        gain = paired_bootstrap(images, counted(test, other)[0], miou)["mIoU"]
        against["gain"] = [round(x, 4) for x in (gain.difference, gain.low, gain.high)]
    return {
        "mIoU": round(interval.value, 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        **against,
        "there": {
            "precision": round(float(there[1, 1] / max(1, there[1].sum())), 3),
            "recall": round(float(there[1, 1] / max(1, there[:, 1].sum())), 3),
        },
        **groups,
        "IoU": {
            word: round(float(iou), 3)
            for word, iou in zip([*test.words, "something else"], every, strict=False)
            if not np.isnan(iou)
        },
    }


def counted(test: Test, segmenter: Segmenter) -> tuple[ImageCounts, np.ndarray]:
    """What the maps of a test's photos say: confusion matrices, and (2, 2) how many words are
    [said to be][truly] in a photo."""
    count = len(test.words)
    pairs, there = [], np.zeros((2, 2), int)
    for path, truth in test.items:
        found = segmenter(path, test.words).labels
        said = np.where(found < 0, count, found)
        keep = truth != 255
        flat = said[keep] * (count + 1) + truth[keep].astype(np.int64)
        matrix = np.bincount(flat, minlength=(count + 1) ** 2).reshape(count + 1, count + 1)
        pairs.append(PairCounts.from_dense(matrix))
        for number in range(count):
            share = (said == number).mean()
            there[int(share >= PRESENT_SHARE), int((truth == number).any())] += 1
    return ImageCounts.stack(pairs), there


def ious(matrix: np.ndarray, with_others: bool) -> np.ndarray:
    """IoU per word, nan for words that are not in the truth; "something else" last if scored."""
    hit = np.diag(matrix).astype(float)
    union = matrix.sum(0) + matrix.sum(1) - hit
    iou = np.where(matrix.sum(0) > 0, hit / np.maximum(union, 1), np.nan)
    return iou if with_others else iou[:-1]


def main() -> None:
    """Print a table, and JSON with the IoU of every word if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "head", type=Path, nargs="?", help="safetensors file (default: the shipped one)"
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, help="also measure the scene teacher")
    parser.add_argument("--stride", type=int, default=4, help="score every n-th pixel")
    parser.add_argument("--camvid-step", type=int, default=3, help="every n-th CamVid test frame")
    parser.add_argument("--camvid-split", choices=("val", "test"), default="test")
    parser.add_argument("--half", type=int, choices=(0, 1), help="every other COCO photo only")
    parser.add_argument(
        "--dense-weight", type=float, nargs="*", help="with --public: in place of the preset's"
    )
    parser.add_argument(
        "--settings", nargs="*", default=[], metavar="NAME=VALUE", help="with --public: changes"
    )
    parser.add_argument("--region-resize", type=float, help="with --public: the encoder's")
    parser.add_argument(
        "--long-side",
        type=int,
        help=f"of the photo, in pixels (default: {LONG_SIDE}; with --public: the preset's)",
    )
    parser.add_argument(
        "--withheld", nargs="*", help="words to score as withheld (default: the head's own)"
    )
    parser.add_argument(
        "--affinity", help='a trained affinity network, or "none" (default: the shipped one)'
    )
    parser.add_argument(
        "--against-plain",
        action="store_true",
        help="with --public: the gain over the same without affinities, cells counting 3, paired",
    )
    parser.add_argument("--sharpness", type=float, help="of the affinities (default: the preset's)")
    parser.add_argument("--share", type=float, help="of the gathered embeddings, likewise")
    parser.add_argument("--tests", nargs="*", help="names of tests (default: all)")
    parser.add_argument("--rules", choices=("few", "grid", "decoys"), default="few")
    parser.add_argument("--json", type=Path, help="write every IoU here")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--public", action="store_true", help="through Segmenter, full size")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trained = load_dense_head(arguments.head)
    affinity = True if arguments.affinity is None else Path(arguments.affinity)
    segmenter = presets.embedded(
        arguments.head, affinity=False if arguments.affinity == "none" else affinity
    )
    gathers = segmenter.proposals.affinity
    for name in ("sharpness", "share"):
        if getattr(arguments, name) is not None:
            if gathers is None:
                parser.error(f"--{name} means nothing with --affinity none")
            setattr(gathers, name, getattr(arguments, name))
    base = Rule(head=trained.scale)
    if arguments.rules == "few":
        weights = ((0.0, 0.0), (1.0, 1.0), (0.05, 0.7), (0.15, 0.7))
        rules = [replace(base, seen=seen, unseen=unseen) for seen, unseen in weights]
    else:
        weights = [(s, u) for s in (0.0, 0.05, 0.15, 0.3) for u in (0.3, 0.5, 0.7, 0.9) if u > s]
        rules = [
            replace(base, conse=conse, seen=seen, unseen=unseen, near=near)
            for conse in (12.0, 24.0)
            for seen, unseen in weights
            for near in (0.7, 0.8, 0.9)
        ]
    if arguments.rules == "decoys":
        rules = [replace(base, decoy=d) for d in (0.0, 0.5, 1.0, 2.0)]
    notes = trained.notes.get("heads", [trained.notes])
    own = [set(note.get("config", {}).get("withheld", ())) for note in notes]
    withheld = arguments.withheld or sorted(set.intersection(*own))
    if arguments.public:
        usual = segmenter.recipe
        changes = {name: json.loads(v) for name, v in (c.split("=") for c in arguments.settings)}
        usual = replace(usual, settings=usual.settings.replace(**changes))
        if arguments.long_side is not None:
            side = arguments.long_side
            usual = replace(usual, resize=Resize(short=side, longest=side))
        if arguments.region_resize is not None:
            segmenter.clip = EmbeddedEncoder(region_resize=arguments.region_resize)
            segmenter.region_clip = segmenter.clip
        plain = None
        if arguments.against_plain:
            plain = presets.embedded(arguments.head, affinity=False)
            weight = plain.recipe.settings.dense_weight
            settings = usual.settings.replace(dense_weight=weight)
            layers = plain.recipe.token_layers
            plain.recipe = replace(usual, settings=settings, token_layers=layers)
            plain.clip = plain.region_clip = segmenter.clip
        results: dict[str, dict[str, object]] = {}
        for weight in arguments.dense_weight or [usual.settings.dense_weight]:
            settings = usual.settings.replace(dense_weight=weight)
            segmenter.recipe = replace(usual, settings=settings)
            of_weight = results.setdefault(f"dense weight {weight:g}", {})
            for test in tests(
                arguments.data, arguments.camvid_step, withheld, arguments.camvid_split
            ):
                wanted = not arguments.tests or test.name in arguments.tests
                if test.decoys is not None or not wanted:
                    continue
                if arguments.half is not None and test.name != "camvid":
                    test.items = test.items[arguments.half :: 2]
                of_weight[test.name] = public(test, segmenter, plain)
                print(
                    f"dense weight {weight:g},",
                    test.name,
                    json.dumps(of_weight[test.name]),
                    flush=True,
                )
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))
        return
    side = arguments.long_side or LONG_SIDE
    embedder = Embedder(EmbeddedEncoder(), trained, segmenter, side)
    record: dict[str, dict[str, object]] = {}
    for test in tests(arguments.data, arguments.camvid_step, withheld, arguments.camvid_split):
        if arguments.tests and test.name not in arguments.tests:
            continue
        print(f"{test.name}: {len(test.items)} photos, {len(test.words)} words", flush=True)
        if arguments.teachers and test.name.startswith("everyday"):
            matrix = teacher_confusion(test, arguments.teachers, arguments.stride)
            print(f"  {np.nanmean(ious(matrix, False)):.3f}  scene teacher", flush=True)
        for rule, matrix in zip(
            rules, confusions(test, embedder, rules, arguments.stride), strict=True
        ):
            iou = ious(matrix, test.with_others)
            parts = [f"{name} {np.nanmean(iou[ids]):.3f}" for name, ids in test.groups.items()]
            print(f"  {np.nanmean(iou):.3f}  {rule}  {', '.join(parts)}".rstrip(), flush=True)
            record.setdefault(test.name, {})[str(rule)] = dict(
                zip([*test.words, "something else"], iou.round(4).tolist(), strict=False)
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
