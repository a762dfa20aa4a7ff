"""Sample photos of installed packages, with words that suit them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A photo that may be shown to anybody.

    Attributes:
        name: of the example.
        package: that brings the file.
        file: its path inside the package.
        words: that a person might ask for.
        credit: of whom the photo is and on which terms.
    """

    name: str
    package: str
    file: str
    words: tuple[str, ...]
    credit: str

    @property
    def path(self) -> Path | None:
        """Where the photo is; ``None`` if the package is not installed or lacks it."""
        found = find_spec(self.package)  # does not import it
        for folder in (found.submodule_search_locations or ()) if found else ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        return None


EXAMPLES = (
    Example("cat", "skimage", "data/chelsea.png", ("cat", "wall"), "Stefan van der Walt, CC0"),
    Example(
        "coffee",
        "skimage",
        "data/coffee.png",
        ("cup", "spoon", "table"),
        "Rachel Michetti / Pikolo Espresso Bar, CC0",
    ),
    Example(
        "palace",
        "sklearn",
        "datasets/images/china.jpg",
        ("sky", "tree", "building"),
        "Daniel Buechele, CC BY 2.0",
    ),
    Example(
        "flower",
        "sklearn",
        "datasets/images/flower.jpg",
        ("flower", "leaf"),
        "vultilion, CC BY 2.0",
    ),
    Example("rocket", "skimage", "data/rocket.jpg", ("rocket", "sky"), "SpaceX, public domain"),
    Example(
        "astronaut", "skimage", "data/astronaut.png", ("person", "flag"), "NASA, public domain"
    ),
)


def available() -> dict[str, Example]:
    """The examples whose packages are installed, by name."""
    return {example.name: example for example in EXAMPLES if example.path is not None}
