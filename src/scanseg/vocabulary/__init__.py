"""Words: names, synonyms, background words, prompt templates, and the benchmarks' label sets."""

from scanseg.vocabulary.names import Terms, Vocabulary
from scanseg.vocabulary.templates import MINILM_TEMPLATES, SCAN_TEMPLATES

__all__ = ["MINILM_TEMPLATES", "SCAN_TEMPLATES", "Terms", "Vocabulary"]
