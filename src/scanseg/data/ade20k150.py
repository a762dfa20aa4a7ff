"""ADE20K-150: the scene parsing benchmark of 2016 (SCAN section 4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from scanseg.data.layout import GIB, Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.pictures import LabelTable

FOLDERS = {"train": "training", "val": "validation"}


class Ade20k150(Layout):
    """``images/validation/*.jpg`` and ``annotations/validation/*.png``, 8 bit.

    Value 0 is "other objects" and does not count; class i has value i + 1.
    """

    name = "ade20k150"
    title = "ADE20K-150"
    label_set = "ade150"
    table = LabelTable(tuple(range(1, 151)), voids=(0,))
    default_split = "val"
    splits: ClassVar = {
        "train": SplitFacts(20_210, paper=20_000, note='"20k" in the paper is rounded'),
        "val": SplitFacts(
            2_000,
            paper=2_000,
            note="the 3k test images of the paper have no public labels and are not read",
        ),
    }
    archives = (
        Archive(
            file="ADEChallengeData2016.zip",
            url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            holds="photos and label maps",
            takes=(
                *(
                    Take(rf"{kind}/{folder}/(ADE_\w+\.{suffix})", rf"{kind}/{folder}/\1", split=s)
                    for s, folder in FOLDERS.items()
                    for kind, suffix in (("images", "jpg"), ("annotations", "png"))
                ),
                Take(r"ADEChallengeData2016/(objectInfo150\.txt)", r"\1"),
            ),
            size=967_382_037,
            digest="sha256:7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29",
            max_bytes=3 * GIB,
        ),
    )
    tree = "images/{training,validation}/*.jpg, annotations/{training,validation}/*.png"
    terms = "non-commercial research and education (ADE20K terms)"

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`; ``root`` may be the folder above ADEChallengeData2016."""
        self.pick(split)
        photos, maps = (
            self.need(
                root,
                split,
                what,
                f"{kind}/{FOLDERS[split]}",
                f"ADEChallengeData2016/{kind}/{FOLDERS[split]}",
            )
            for kind, what in (("images", "photos"), ("annotations", "label maps"))
        )
        images, labels = Folder.scan(photos, ".jpg"), Folder.scan(maps, ".png")
        return Files(tuple(labels.files), images, labels, listed=False)
