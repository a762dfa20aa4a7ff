"""Inference settings as several commands take them."""

from __future__ import annotations

from typing import Any

from scanseg.contracts import InferenceSettings


def given_settings(**options: Any) -> dict[str, Any]:
    """The settings that were given on the command line (``None`` or an unset switch: not given).

    Raises:
        InputError: one is out of range; raised here, before any model is loaded.
    """
    given = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    InferenceSettings().replace(**given)
    return given
