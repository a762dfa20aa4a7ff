"""The text tower against transformers' own tokenizer and network."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from scanseg.encoders.minilm import (
    PACKAGE,
    TOKENIZER_FILE,
    TOKENIZER_SHA256,
    WEIGHTS_FILE,
    WEIGHTS_SHA256,
    SentenceEncoder,
)
from scanseg.encoders.packaged import checked_file

PROMPTS = [
    "cat",
    "a photo of a Sofa, with a very long name indeed.",
    "Ärger mit Übergröße",
    "猫 and 犬",
    "  tab\tand\u00a0space ",
    "naïve café \U0001f408",
    "[MASK] [SEP]",
    "word " * 400,  # is cut
    "",
]


def test_it_reads_as_transformers_does() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = checked_file(PACKAGE, WEIGHTS_FILE, WEIGHTS_SHA256).parent
    checked_file(PACKAGE, TOKENIZER_FILE, TOKENIZER_SHA256)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    ours = SentenceEncoder()
    rows = ours(PROMPTS, batch=4)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        tokens = tokenizer(prompt, truncation=True, max_length=256, return_tensors="pt")
        assert ours.tokenizer.encode(prompt).ids == tokens["input_ids"][0].tolist()
        with torch.inference_mode():
            expected = F.normalize(model(**tokens).last_hidden_state[0].mean(0), dim=0)
        assert (row - expected).abs().max() < 1e-6
