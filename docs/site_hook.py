"""What the documentation site adds to the pages in this folder (a hook of MkDocs).

* Pages made from what is there: the start page from README.md, the API reference from the rooms of
  ``src/scanseg``, the command line from the commands' signatures, the list of decisions.
* Navigation from the files that exist, so that a new page needs no entry.
* Links that leave ``docs/`` work on a code host; here they become links to the page made from the
  same file, or to the module in the API reference, or plain text.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "scanseg"

COPIED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

SECTIONS: dict[str, tuple[str, ...]] = {
    "How to": (
        "images.md",
        "python.md",
        "serve.md",
        "formats.md",
        "video.md",
        "metrics.md",
        "evaluate.md",
        "train.md",
        "finetune_clip.md",
        "ablate.md",
        "convert.md",
        "export.md",
        "batch.md",
        "scale.md",
        "data.md",
        "hierarchy.md",
        "security.md",
    ),
    "The method": ("method.md", "paper_to_code.md"),
    "Results": ("results/README.md", "gallery.md"),
}
"""Pages in the order of the navigation; those that do not exist (yet) are passed over."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
ROLE = re.compile(r":(?:class|func|meth|mod|attr):\s*(?=<code)")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Navigation: the sections above, what they forgot, the results' reports, the made pages."""
    docs = ROOT / "docs"
    here = {p.relative_to(docs).as_posix() for p in docs.rglob("*.md")}
    listed = {page for pages in SECTIONS.values() for page in pages}
    forgotten = sorted(p for p in here - listed if "/" not in p)
    results = sorted(p for p in here - listed if p.startswith("results/"))
    nav: list[Any] = [{"Start": "index.md"}]
    for title, pages in SECTIONS.items():
        found = [p for p in pages if p in here]
        found += forgotten if title == "How to" else results if title == "Results" else []
        if title == "How to":
            found.append("command_line.md")
        nav.append({title: found})
    nav.append({"API": ["api/index.md", *sorted(f"api/{room}.md" for room in rooms())]})
    decisions = sorted(p for p in here if p.startswith("decisions/"))
    nav.append({"Decisions": ["decisions/index.md", *decisions]})
    nav.append({"Project": ["contributing.md", "changelog.md", *_model_cards()]})
    config.nav = nav
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the made pages."""
    made = {site: (ROOT / source).read_text("utf-8") for source, site in COPIED.items()}
    made |= {card: (ROOT / card).read_text("utf-8") for card in _model_cards()}
    made |= {f"api/{room}.md": _room_page(room, modules) for room, modules in rooms().items()}
    made["api/index.md"] = _api_index()
    made["command_line.md"] = _command_line()
    made["decisions/index.md"] = _decisions()
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Rewrite links; see the module."""
    uri = page.file.src_uri
    source = next((s for s, site in COPIED.items() if site == uri), None)
    source = source or (uri if uri.startswith("model_cards/") else f"docs/{uri}")

    def rewrite(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        if "://" in link or link.startswith(("#", "mailto:")):
            return match[0]
        path, _, anchor = link.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        target = _site_place(place)
        if target is None:
            return text
        target, _, own = target.partition("#")
        relative = posixpath.relpath(target, posixpath.dirname(uri) or ".")
        anchor = anchor or own
        return f"{mark}[{text}]({relative}{'#' + anchor if anchor else ''})"

    parts = FENCE.split(markdown)
    return "".join(p if p.startswith("```") else LINK.sub(rewrite, p) for p in parts)


def on_page_content(html: str, *, page: Any, config: Any, files: Files) -> str:
    """Take the roles of another mark-up (``:class:``) out of the API reference."""
    return ROLE.sub("", html) if page.file.src_uri.startswith("api/") else html


def rooms() -> dict[str, list[str]]:
    """Room -> its modules, by their full names; modules that stand alone are rooms too."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__", "cli"):
            continue
        name = ".".join(("scanseg", *(p for p in parts if p != "__init__")))
        found.setdefault(parts[0], []).append(name)
    return found


def _site_place(place: str) -> str | None:
    """Where a file of the repository is on the site, with an anchor for a module; or nowhere."""
    if place in COPIED:
        return COPIED[place]
    if place in ("docs/decisions", "docs/results"):
        return f"{place[5:]}/{'index' if 'decisions' in place else 'README'}.md"
    if place.startswith("model_cards/") and place in _model_cards():
        return place
    if place.startswith("docs/") and (ROOT / place).is_file() and not place.endswith(".py"):
        return place.removeprefix("docs/")
    if place.startswith("src/scanseg/") and place.endswith(".py"):
        parts = Path(place).relative_to("src/scanseg").with_suffix("").parts
        if parts[0] in rooms():
            name = ".".join(("scanseg", *(p for p in parts if p != "__init__")))
            return f"api/{parts[0]}.md#{name}"
    return None


def _model_cards() -> list[str]:
    return sorted(f"model_cards/{p.name}" for p in (ROOT / "model_cards").glob("*.md"))


def _room_page(room: str, modules: list[str]) -> str:
    return f"# scanseg.{room}\n\n" + "\n\n".join(f"::: {name}" for name in modules) + "\n"


def _api_index() -> str:
    public = (
        "Segmenter",
        "Vocabulary",
        "Segmentation",
        "Segment",
        "InferenceSettings",
        "InputError",
    )
    home = {"Segmenter": "segmenter", "Vocabulary": "vocabulary"}
    rows = "\n".join(
        f"| [`scanseg.{n}`]({home.get(n, 'contracts')}.md#scanseg."
        f"{'vocabulary.names' if n == 'Vocabulary' else home.get(n, 'contracts')}.{n}) |"
        for n in public
    )
    every = "\n".join(f"| [`scanseg.{room}`]({room}.md) |" for room in sorted(rooms()))
    return (
        "# API reference\n\nThe public names of `scanseg`:\n\n| name |\n|---|\n"
        f"{rows}\n\nThe rooms, and the order in which they may import one another, are in "
        "[Contributing](../contributing.md). Letters such as B, Q, K, H, W in shapes are defined "
        f"in [contracts](contracts.md).\n\n| room |\n|---|\n{every}\n"
    )


def _command_line() -> str:
    sys.path.insert(0, str(ROOT / "src"))
    from importlib import import_module

    from scanseg.cli import COMMANDS, parser_for

    parts = ["# Command line", "`scanseg COMMAND --help` prints the same."]
    for name, (module_name, summary) in COMMANDS.items():
        module = import_module(module_name)
        nested = getattr(module, "COMMANDS", None) or {"": module.COMMAND}
        parts.append(f"## scanseg {name}\n\n{summary[0].upper()}{summary[1:]}.")
        for sub, function in nested.items():
            program = f"scanseg {name} {sub}".strip()
            parts.append(f"```text\n{parser_for(function, program).format_help().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _decisions() -> str:
    rows = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text("utf-8").splitlines()[0].lstrip("# ")
        rows.append(f"- [{title}]({path.name})")
    return (
        "# Decisions\n\nChoices that somebody could question, half a page each: the question, what "
        "was decided, what it costs.\n\n" + "\n".join(rows) + "\n"
    )
