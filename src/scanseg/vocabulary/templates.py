"""Prompt templates: a label goes in at ``{}``."""

from __future__ import annotations

SCAN_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""The 14 templates of the released SCAN (facts; they come from the ViLD line of work)."""

MINILM_TEMPLATES: tuple[str, ...] = (
    "{}",
    "a photo of a {}.",
    "a {} in the scene.",
    "a picture of the {}.",
)
"""The templates of the embedded preset's sentence encoder."""
