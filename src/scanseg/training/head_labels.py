"""What to believe: true labels and teachers' votes of a view become *layers* of the loss.

A layer says, for every cell of a view, which class of one vocabulary it shows (255: nothing is
said) and how much that counts. The gates on the teachers:

- their views of the photo must agree, and "background" means unknown;
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
from scanseg.training.head_vocabularies import FIRST_CLASS, VOCABULARIES

IGNORE = 255
TEACHER_WEIGHT = {"ade31": 0.5, "voc21": 0.5, "city19": 0.5}
AGREEMENT = {"ade31": 0.75, "voc21": 0.75, "city19": 0.99}
"""Share of a teacher's views that must agree."""
STREET_SHARE = 0.05
"""Share of road and sidewalk, by the scene teacher, from which a photo is a street scene."""
STREET_SOURCES = ("facades_night_day",)
"""Data sets that show nothing but streets."""


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
    """(classes of the teacher, classes of the vocabulary) bool."""
    said = [words[0] for words in VOCABULARIES[teacher]]
    true = [words[0] for words in VOCABULARIES[vocabulary]]
    table = np.zeros((len(said), len(true)), bool)
    for name, names in rules.items():
        table[said.index(name), [true.index(other) for other in names]] = True
    return table


COMPATIBLE: dict[tuple[str, str], np.ndarray] = {
    **{("coco133", teacher): _table("coco133", teacher, rules) for teacher, rules in _COCO.items()},
    **{
        ("facades", teacher): _table("facades", teacher, rules)
        for teacher, rules in _FACADES.items()
    },
}
"""(true vocabulary, teacher) -> (classes of the teacher, true classes) bool: may both be said?"""
_CITY_ADE = _table("ade31", "city19", _ADE_OF_CITY)


@dataclass(frozen=True)
class Layer:
    """Labels of one vocabulary for the cells of a view.

    Attributes:
        vocabulary: key of ``VOCABULARIES``.
        labels: (rows, columns) uint8 or int16 class ids, ``IGNORE`` where nothing is said.
        weight: of each cell in the loss.
    """

    vocabulary: str
    labels: np.ndarray
    weight: float


def is_street(votes: Mapping[str, np.ndarray]) -> bool:
    """Whether the scene teacher sees a road or sidewalk on at least 5 % of the photo."""
    words = [w[0] for w in VOCABULARIES["ade31"]]
    ground = [words.index("road") + 1, words.index("sidewalk") + 1]
    return bool(np.isin(votes["ade31"], ground).mean() >= STREET_SHARE)


def gated_votes(photo: Photo, votes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each teacher may say before the truth is looked at.

    Args:
        photo: whose votes they are.
        votes: ``NAME`` -> (G, G) uint8 ids and ``NAME_agreement`` -> (G, G) shares.

    Returns:
        Teacher -> (G, G) uint8 class ids of its vocabulary, ``IGNORE`` where it stays silent.
    """
    gated = {}
    for teacher, least in AGREEMENT.items():
        if teacher not in votes:
            continue
        ids = votes[teacher].astype(np.int16) - FIRST_CLASS.get(teacher, 0)
        ids[(ids < 0) | (votes[f"{teacher}_agreement"] < least)] = IGNORE
        gated[teacher] = ids.astype(np.uint8)
    if "city19" in gated:
        if photo.source in STREET_SOURCES or is_street(votes):
            city, scene = gated["city19"], gated["ade31"]
            covered = np.asarray(
                _CITY_ADE.any(1)
            )  # classes that the scene teacher could have named too
            both = (city != IGNORE) & (scene != IGNORE)
            wrong = both.copy()
            wrong[both] = covered[city[both]] & ~_CITY_ADE[city[both], scene[both]]
            city[wrong] = IGNORE
        else:
            del gated["city19"]
    if photo.image_class >= 0:
        _agree_with_image_class(gated, photo.image_class)
    return gated


def _agree_with_image_class(gated: dict[str, np.ndarray], image_class: int) -> None:
    objects, scene = gated["voc21"], gated["ade31"]
    names = [words[0] for words in VOCABULARIES["voc21"]]
    for number, name in enumerate(names):
        if name in _ANIMALS:
            right = any(image_class in ids for ids in _ANIMALS[name])
        else:
            right = name == "person" or image_class >= FIRST_OBJECT
        if not right:
            objects[objects == number] = IGNORE
    person = [words[0] for words in VOCABULARIES["ade31"]].index("person")
    seen = objects != IGNORE
    if image_class < FIRST_OBJECT:  # the animal itself looks like a person or a rock to the scenes
        scene[scene == person] = IGNORE
    scene[seen & (objects != names.index("person"))] = IGNORE


def label_layers(
    photo: Photo, truth: np.ndarray | None, votes: Mapping[str, np.ndarray]
) -> list[Layer]:
    """The layers of one view.

    Args:
        photo: whose view it is.
        truth: (rows, columns) true ids in the view's cells, 255 = not labelled; ``None`` without.
        votes: teacher -> gated ids in the view's cells (``gated_votes``, sampled).
    """
    layers = []
    if truth is not None:
        layers.append(Layer(photo.vocabulary, truth, 1.0))
    for teacher, said in votes.items():
        said = said.copy()
        if truth is not None:
            said[_contradicted(photo, teacher, said, truth)] = IGNORE
        if (said != IGNORE).any():
            layers.append(Layer(teacher, said, TEACHER_WEIGHT[teacher]))
    return layers


def _contradicted(photo: Photo, teacher: str, said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(rows, columns) bool: cells where the truth forbids what the teacher said."""
    wrong = np.zeros(said.shape, bool)
    speaks, known = said != IGNORE, truth != IGNORE
    if photo.vocabulary == "clothing":  # labelled pixels belong to the person
        person = [words[0] for words in VOCABULARIES[teacher]].index("person")
        return speaks & known & (said != person)
    table = COMPATIBLE.get((photo.vocabulary, teacher))
    if table is None:
        return speaks & known
    both = speaks & known
    wrong[both] = ~table[said[both], truth[both]]
    if photo.exhaustive:
        elsewhere = table[:, photo.exhaustive :].any(1)
        impossible = np.asarray(table.any(1) & ~elsewhere)  # compatible with labelled ids only
        rest = speaks & ~known
        wrong[rest] = impossible[said[rest]]
    return wrong
