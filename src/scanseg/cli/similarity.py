"""``scanseg similarity``: a similarity file for Open-mIoU, made before anything is scored."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from scanseg.cli import EXIT_OK
from scanseg.contracts import InputError
from scanseg.evaluation.outputs import write_all
from scanseg.evaluation.similarity import from_embeddings, from_wordnet, similarity_json
from scanseg.vocabulary.hierarchy import hierarchy_names, load_hierarchy
from scanseg.vocabulary.hierarchy_candidates import meanings
from scanseg.vocabulary.label_sets import LabelSet, load_label_set
from scanseg.vocabulary.wordnet import WordNet


def similarity(
    *,
    labels: str,
    output: Path,
    source: str = "embedded",
    weights: str | None = None,
    wordnet: Path | None = None,
) -> int:
    """Write how similar the labels of a list are to each other, for Open-mIoU.

    The file goes to scanseg score --similarity or scanseg evaluate --similarity. Similarities are
    cosines between the text embeddings of a model, negative ones cut to 0, or path similarities in
    WordNet. Open-mIoU depends on this choice: compare only numbers made with the same file.

    Args:
        labels: a label set (ade150, pc459, ...) or a .txt or .json file with one label per entry
        output: the file to write
        source: a preset or model folder whose text tower speaks, or wordnet
        weights: folder with the weights of a preset that ships none
        wordnet: folder with data.noun, index.noun and index.sense; the usual places by default
    """
    label_set = load_label_set(labels)
    if source == "wordnet":
        table, told = _by_wordnet(label_set, wordnet)
    else:
        table, told = _by_text(label_set, source, weights)
    write_all(output.parent, {output.name: similarity_json(table, label_set.names, told)})
    print(f"{output}: {len(label_set)} labels, {told}", file=sys.stderr)
    return EXIT_OK


COMMAND = similarity


def _by_text(labels: LabelSet, preset: str, weights: str | None) -> tuple[np.ndarray, str]:
    from scanseg.segmenter import Segmenter
    from scanseg.vocabulary import Vocabulary

    vocabulary = Vocabulary(labels.names, background=())
    if len(vocabulary) != len(labels):
        raise InputError(f"two of the {len(labels)} labels are the same word")
    segmenter = Segmenter.from_pretrained(preset, weights=weights, device="cpu")
    vectors, _ = segmenter.encode(vocabulary)
    table = from_embeddings(vectors[: len(labels)].numpy())
    return table, f"cosines of the text tower of {segmenter.recipe.name}"


def _by_wordnet(labels: LabelSet, folder: Path | None) -> tuple[np.ndarray, str]:
    dictionary = WordNet(folder)
    picked = load_hierarchy(labels.name).senses if labels.name in hierarchy_names() else {}
    found = meanings(labels, dictionary, picked)
    table = from_wordnet([found[name].synset for name in labels.names], dictionary)
    unknown = [name for name in labels.names if found[name].synset is None]
    if unknown:
        print(f"no meaning in WordNet: {'; '.join(unknown)}", file=sys.stderr)
    return table, f"path similarity in WordNet {dictionary.version}"
