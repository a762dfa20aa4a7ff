"""What to believe: true labels and teachers' votes of a view become *layers* of the loss.

A layer says, for every cell of a view, which class of one vocabulary it shows (255: nothing is
said) and how much that counts. A teacher's "background" is one class more, "something else": none
of the words that it knows. The gates on the teachers:

- what they find probable counts, softly;
- where the truth is known they must be compatible with it (``COMPATIBLE``), and an unlabelled pixel
  of a photo whose things are all labelled cannot be one of those things;
- the street teacher speaks only on street scenes, and the scene teacher must not contradict it;
- on ImageNet photos an animal must be the animal of the image-level label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scanseg.training.head_photos import Photo
from scanseg.training.head_views import View
from scanseg.training.head_vocabularies import FIRST_CLASS, VOCABULARIES

IGNORE = 255
TEACHER_WEIGHT = {"ade31": 0.5, "voc21": 0.5, "city19": 0.5}
LEAST_SHARE = {"ade31": 0.5, "voc21": 0.5, "city19": 0.75}
"""Probability that a teacher must give to what it is allowed to say."""
STREET_SHARE = 0.05
"""Share of road and sidewalk, by the scene teacher, from which a photo is a street scene."""


def _compatible(text: str) -> dict[str, tuple[str, ...]]:
    pairs = (line.split(":") for line in text.strip().splitlines())
    return {name.strip(): tuple(w.strip() for w in rest.split(",")) for name, rest in pairs}


_COCO = {
    "ade31": _compatible("""
        wall: wall, brick wall, stone wall, tile wall, wood wall
        building: building, house, roof, brick wall, stone wall
        sky: sky
        floor: floor, wood floor
        tree: tree
        ceiling: ceiling
        road: road, gravel
        bed: bed, blanket, pillow
        window pane: window, window blind
        grass: grass, playingfield
        cabinet: cabinet, shelf, counter
        sidewalk: pavement
        person: person
        earth: dirt, gravel, sand
        door: door
        table: table, dining table
        mountain: mountain, rock
        plant: potted plant, tree, flower
        curtain: curtain
        chair: chair
        car: car
        water: water, river, sea
        painting: paper, banner
        sofa: couch
        shelf: shelf, book
        cottage: house, building
        sea: sea, water
        mirror: mirror
        rug: rug
        field: grass, dirt
        armchair: chair, couch
    """),
    "voc21": _compatible("""
        aeroplane: airplane
        bicycle: bicycle
        bird: bird
        boat: boat
        bottle: bottle
        bus: bus
        car: car
        cat: cat
        chair: chair
        cow: cow
        dining table: dining table, table
        dog: dog
        horse: horse
        motorbike: motorcycle
        person: person
        potted plant: potted plant
        sheep: sheep
        sofa: couch
        train: train
        tv monitor: tv
    """),
    "city19": _compatible("""
        road: road
        sidewalk: pavement
        building: building, house, roof
        wall: wall, brick wall, stone wall
        fence: fence
        pole: building, tree, sky, fence, wall
        traffic light: traffic light
        traffic sign: stop sign, banner, building
        vegetation: tree
        terrain: grass, dirt
        sky: sky
        person: person
        bicyclist: person
        car: car
        truck: truck
        bus: bus
        train: train
        motorcycle: motorcycle
        bicycle: bicycle
    """),
}
_FACADES = {
    "ade31": _compatible("""
        building: facade, shop
        cottage: facade
        window pane: window
        road: street
        sidewalk: street
        tree: vegetation
        plant: vegetation
        car: car
    """),
    "city19": _compatible("""
        building: facade, shop, window
        fence: fence
        vegetation: vegetation
        road: street
        sidewalk: street
        car: car
    """),
}
_ADE_OF_CITY = _compatible("""
    road: road, sidewalk
    sidewalk: sidewalk, road, floor
    building: building, cottage, wall
    wall: wall, building
    vegetation: tree, plant, grass
    terrain: grass, earth, field
    sky: sky
    person: person
    bicyclist: person
    car: car
""")
_ANIMALS: dict[str, tuple[range, ...]] = {
    "bird": (range(7, 25), range(80, 101), range(127, 147)),
    "cat": (range(281, 286),),
    "cow": (range(345, 347),),
    "dog": (range(151, 269),),
    "horse": (range(339, 340),),
    "sheep": (range(348, 350),),
}
"""VOC's animals -> the ImageNet classes that are one."""
FIRST_OBJECT = 398
"""ImageNet classes below this one are animals."""


def _table(vocabulary: str, teacher: str, rules: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    """(classes of the teacher + 1, classes of the vocabulary) bool; "something else" is last."""
    said = [words[0] for words in VOCABULARIES[teacher]]
    true = [words[0] for words in VOCABULARIES[vocabulary]]
    table = np.zeros((len(said) + 1, len(true)), bool)
    for name, names in rules.items():
        table[said.index(name), [true.index(other) for other in names]] = True
    table[-1] = ~table.any(0)
    return table


COMPATIBLE: dict[tuple[str, str], np.ndarray] = {
    **{("coco133", teacher): _table("coco133", teacher, rules) for teacher, rules in _COCO.items()},
    **{
        ("facades", teacher): _table("facades", teacher, rules)
        for teacher, rules in _FACADES.items()
    },
}
"""(true vocabulary, teacher) -> (classes of the teacher + 1, true classes) bool: may both be said?
The last row is the teacher's "something else"."""
_CITY_ADE = np.pad(_table("ade31", "city19", _ADE_OF_CITY)[:-1], ((0, 0), (0, 1)))
"""(street classes, scene classes + 1) bool; "something else" speaks against every street class."""


def something_else(teacher: str) -> int:
    """The class that stands for a teacher's "background"."""
    return len(VOCABULARIES[teacher])


def rivals(teacher: str) -> list[str]:
    """What "something else" means to a teacher: the COCO names that none of its classes covers."""
    covered = np.asarray(COMPATIBLE["coco133", teacher][:-1].any(0))
    names = [words[0] for words in VOCABULARIES["coco133"]]
    return [name for name, known in zip(names, covered, strict=True) if not known]


@dataclass(frozen=True)
class SoftLabels:
    """Class ids with shares.

    Attributes:
        ids: (J, rows, columns) uint8, the most frequent first.
        shares: (J, rows, columns) float32 in [0, 1]; a cell whose shares are all 0 says nothing.
    """

    ids: np.ndarray
    shares: np.ndarray

    @classmethod
    def hard(cls, labels: np.ndarray) -> SoftLabels:
        """(rows, columns) ids with ``IGNORE`` -> certain labels."""
        known = labels != IGNORE
        return cls(np.where(known, labels, 0)[None], known[None].astype(np.float32))

    @property
    def mass(self) -> np.ndarray:
        """(rows, columns) sum of the shares."""
        return np.asarray(self.shares.sum(0))

    def sampled(self, view: View) -> SoftLabels:
        """In the cells of a view."""
        return SoftLabels(
            np.stack([view.sample(ids) for ids in self.ids]),
            np.stack([view.sample(shares) for shares in self.shares]),
        )

    def without(self, forbidden: np.ndarray, least: float) -> SoftLabels:
        """Shares of forbidden classes are dropped, then cells with less than ``least`` in all.

        Args:
            forbidden: (J, rows, columns) bool.
        """
        shares = np.where(forbidden, 0, self.shares).astype(np.float32)
        return SoftLabels(self.ids, shares * (shares.sum(0) >= least))


@dataclass(frozen=True)
class Layer:
    """Labels of one vocabulary for the cells of a view.

    Attributes:
        vocabulary: key of ``VOCABULARIES``.
        labels: what is said.
        weight: of each cell in the loss, times its mass.
    """

    vocabulary: str
    labels: SoftLabels
    weight: float


def is_street(votes: Mapping[str, np.ndarray]) -> bool:
    """Whether the scene teacher sees a road or sidewalk on at least 5 % of the photo."""
    words = [w[0] for w in VOCABULARIES["ade31"]]
    ground = [words.index("road") + 1, words.index("sidewalk") + 1]
    return bool(np.isin(votes["ade31"][0], ground).mean() >= STREET_SHARE)


def gated_votes(photo: Photo, votes: Mapping[str, np.ndarray]) -> dict[str, SoftLabels]:
    """What each teacher may say before the truth is looked at.

    Args:
        photo: whose votes they are.
        votes: ``NAME`` -> (J, G, G) uint8 ids and ``NAME_shares`` -> (J, G, G) uint8
            probabilities, 255 = certain.

    Returns:
        Teacher -> soft labels on the vote grid.
    """
    gated = {}
    for teacher, least in LEAST_SHARE.items():
        if teacher not in votes:
            continue
        ids = votes[teacher].astype(np.int16) - FIRST_CLASS.get(teacher, 0)
        shares = votes[f"{teacher}_shares"].astype(np.float32) / 255
        ids = np.where(ids < 0, something_else(teacher), ids).astype(np.uint8)
        gated[teacher] = SoftLabels(ids, shares).without(np.zeros(ids.shape, bool), least)
    if "city19" in gated and "ade31" in gated:
        city, scene = gated["city19"], gated["ade31"]
        covered = np.asarray(_CITY_ADE.any(1))  # what the scene teacher could have named too
        wrong = covered[city.ids] & ~_CITY_ADE[city.ids, scene.ids[0]] & (scene.shares[0] > 0)
        gated["city19"] = city.without(wrong, LEAST_SHARE["city19"])
    if photo.image_class >= 0:
        _agree_with_image_class(gated, photo.image_class)
    return gated


def _agree_with_image_class(gated: dict[str, SoftLabels], image_class: int) -> None:
    objects, scene = gated["voc21"], gated["ade31"]
    names = [words[0] for words in VOCABULARIES["voc21"]]
    right = np.array(
        [
            any(image_class in ids for ids in _ANIMALS[name])
            if name in _ANIMALS
            else name == "person" or image_class >= FIRST_OBJECT
            for name in names
        ]
        + [all(image_class not in ids for animals in _ANIMALS.values() for ids in animals)]
    )
    objects = objects.without(~right[objects.ids], LEAST_SHARE["voc21"])
    gated["voc21"] = objects
    person = [words[0] for words in VOCABULARIES["ade31"]].index("person")
    forbidden = np.zeros(scene.ids.shape, bool)
    if image_class < FIRST_OBJECT:  # the animal itself looks like a person or a rock to the scenes
        forbidden |= scene.ids == person
    thing = ~np.isin(objects.ids[0], (names.index("person"), something_else("voc21")))
    forbidden |= (objects.mass > 0) & thing
    gated["ade31"] = scene.without(forbidden, LEAST_SHARE["ade31"])


def label_layers(
    photo: Photo, truth: np.ndarray | None, votes: Mapping[str, SoftLabels]
) -> list[Layer]:
    """The layers of one view.

    Args:
        photo: whose view it is.
        truth: (rows, columns) true ids in the view's cells, 255 = not labelled; ``None`` without.
        votes: teacher -> gated soft labels in the view's cells.
    """
    layers = []
    if truth is not None:
        layers.append(Layer(photo.vocabulary, SoftLabels.hard(photo.named(truth)), 1.0))
    for teacher, said in votes.items():
        if truth is not None:
            wrong = np.stack([_contradicted(photo, teacher, ids, truth) for ids in said.ids])
            said = said.without(wrong, LEAST_SHARE[teacher])
        if said.mass.any():
            layers.append(Layer(teacher, said, TEACHER_WEIGHT[teacher]))
    return layers


def _contradicted(photo: Photo, teacher: str, said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(rows, columns) bool: cells where the truth forbids what the teacher said."""
    known = truth != IGNORE
    if photo.vocabulary == "clothing":  # labelled pixels belong to the person
        person = [words[0] for words in VOCABULARIES[teacher]].index("person")
        return np.asarray(known & (said != person))
    table = COMPATIBLE.get((photo.vocabulary, teacher))
    if table is None:
        return np.asarray(known)
    wrong = known & ~table[said, np.where(known, truth, 0)]
    if photo.exhaustive:
        elsewhere = table[:, photo.exhaustive :].any(1)
        impossible = np.asarray(table.any(1) & ~elsewhere)  # compatible with labelled ids only
        wrong |= ~known & impossible[said]
    return np.asarray(wrong)
