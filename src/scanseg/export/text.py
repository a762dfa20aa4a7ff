"""Words for a runner without torch: the text tower as a graph, its tokenizer as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.encoders.minilm import SentenceEncoder
from scanseg.encoders.open_clip import OpenClipEncoder
from scanseg.export.files import write_graph
from scanseg.recipe import Recipe
from scanseg.runtime_onnx.folder import TEXT, TOKENIZER, WORDS
from scanseg.segmenter import Segmenter
from scanseg.storage import atomic_write, file_hash
from scanseg.vocabulary import Vocabulary
from scanseg.vocabulary.embeddings import TextCache, embed_labels, label_key


class ClipText(nn.Module):
    """(P, length) token ids -> (P, D) unit norm, for a causal CLIP text tower."""

    def __init__(self, encoder: OpenClipEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """Any length up to the context: what follows a prompt's end does not matter."""
        return F.normalize(self.encoder.text_features(tokens).float(), dim=-1)


def write_text_tower(segmenter: Segmenter, folder: Path) -> dict[str, Any]:
    """Write ``text.onnx`` and ``tokenizer.json``; returns the entry for ``export.json``.

    Raises:
        InputError: the encoder's text tower has no exportable form.
    """
    encoder: Any = segmenter.region_clip
    Dim = torch.export.Dim
    length: Any = Dim.AUTO
    if isinstance(encoder, EmbeddedEncoder):
        sentences = SentenceEncoder()
        tokenizer: Any = sentences.tokenizer
        tokenizer.no_truncation()
        tokens = torch.tensor([[101, 1037, 4937, 102], [101, 4937, 102, 0]])
        graph: nn.Module = sentences.model
        arguments: dict[str, Any] = {"tokens": tokens, "mask": (tokens > 0).long()}
        kind, context = "sentence", sentences.max_tokens
    elif isinstance(encoder, OpenClipEncoder) and encoder.has_text and encoder.trims_text:
        tokenizer = clip_tokenizer()
        arguments = {"tokens": encoder.tokenize(["a photo of a cat.", "sofa"])[:, :9].clone()}
        graph, kind, context = ClipText(encoder), "clip", encoder.model.context_length
        # the full context itself works too: tracing knows it as "no slicing" and sets it apart
        length = Dim("length", min=2, max=context - 1)
    else:
        raise InputError(
            "this model's text tower cannot be exported: name the words with --labels, "
            "their embeddings are then stored"
        )
    write_graph(
        graph,
        arguments,
        folder / TEXT,
        dynamic={name: {0: Dim.AUTO, 1: length} for name in arguments},
        outputs=["embeddings"],
    )
    with atomic_write(folder / TOKENIZER) as file:
        file.write(tokenizer.to_str().encode())
    fingerprint = f"onnx-{file_hash(folder / TEXT)[:24]}"
    return {
        "kind": kind,
        "context": context,
        "fingerprint": fingerprint,
        "joint_width": encoder.joint_width,
    }


def write_words(segmenter: Segmenter, vocabulary: Vocabulary, folder: Path) -> dict[str, Any]:
    """Write ``words.npz``: these words, the preset's decoys, and what stands beside one alone."""
    recipe: Recipe = segmenter.recipe
    templates = vocabulary.templates or recipe.templates
    alone = Vocabulary(vocabulary.names[:1], background=()).terms().prompts
    words = list(dict.fromkeys([*vocabulary.terms().prompts, *recipe.decoys, *alone]))
    encoder = segmenter.region_clip
    cache = TextCache(None, encoder.fingerprint, encoder.joint_width)
    rows = embed_labels(words, templates, encoder, cache)
    keys = np.stack([np.frombuffer(label_key(w, templates), np.uint8) for w in words])
    with atomic_write(folder / WORDS) as file:
        np.savez(file, keys=keys, rows=rows, words=np.array(words))
    return {"kind": "words"}


def clip_tokenizer() -> Any:
    """open_clip's byte-pair tokenizer as a ``tokenizers.Tokenizer``.

    Its texts must be cleaned first (``runtime_onnx.words.clean``).
    """
    from open_clip import SimpleTokenizer
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    theirs = SimpleTokenizer()
    ranked: Sequence[tuple[str, str]] = sorted(theirs.bpe_ranks, key=theirs.bpe_ranks.__getitem__)
    vocabulary: Mapping[str, int] = theirs.encoder
    start, end = "<start_of_text>", "<end_of_text>"
    tokenizer = Tokenizer(
        models.BPE(
            vocab=dict(vocabulary), merges=list(ranked), end_of_word_suffix="</w>", fuse_unk=False
        )
    )
    words = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])],
    )
    return tokenizer
