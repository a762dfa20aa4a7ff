"""Inference settings as several commands take them."""

from __future__ import annotations

from typing import Any

from scanseg.contracts import InferenceSettings


def given_settings(**options: Any) -> dict[str, Any]:
    """The settings that were given on the command line (``None`` or an unset switch: not given).

    What is said of an option here is its help text in every command that takes it and says nothing
    of its own.

    Args:
        semantics: where paper and released code differ, which to follow (default: the model's)
        branches: which classifiers speak: embedding (of the proposals), clip (of the regions), both
            (default: the model's)
        ensemble_weight: weight of the region classifier, 0 to 1 (default: the model's; of embedded
            it is that for words like those it was taught)
        mask_threshold: probability above which a pixel belongs to a region, 0 to 1 (default: the
            model's; masks of embedded are 0 or 1)
        log_fusion: fuse in log space (for very large vocabularies)
        shift_source: what contextual shift puts in place of background tokens; none: no shift
            (default: the model's; embedded has no shift)
        shift_ratio: share of the background tokens that contextual shift replaces, 0 to 1 (default:
            the model's)
        shift_seed: seed of the choice of these tokens (default: 0)
        options: these, by name.

    Raises:
        InputError: one is out of range; raised here, before any model is loaded.
    """
    given = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    InferenceSettings().replace(**given)
    return given
