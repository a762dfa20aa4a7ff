"""The three calibrations of SCAN: semantic integration, region crops, contextual shift."""

from scanseg.calibration.contextual_shift import ContextualShift
from scanseg.calibration.regions import cut_regions, patch_foreground
from scanseg.calibration.semantic_integration import (
    LowFrequencyEnhancement,
    SemanticIntegration,
    SemanticIntegrationConfig,
    low_frequency_enhancement,
    low_frequency_gain,
)

__all__ = [
    "ContextualShift",
    "LowFrequencyEnhancement",
    "SemanticIntegration",
    "SemanticIntegrationConfig",
    "cut_regions",
    "low_frequency_enhancement",
    "low_frequency_gain",
    "patch_foreground",
]
