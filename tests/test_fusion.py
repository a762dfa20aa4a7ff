"""The ensemble and the map, each worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg import fusion
from scanseg.contracts import Branches, InputError
from scanseg.fusion import (
    DenseEvidence,
    TermOwners,
    _contenders,
    dense_scores,
    fuse,
    in_vocabulary_scores,
    label_map,
    region_scores,
)

TWO = TermOwners(torch.tensor([0, 1]), 2)


def test_in_vocabulary_scores_are_a_softmax_over_labels_and_void() -> None:
    text = torch.eye(3)[:2]
    embeddings = torch.tensor([[[3.0, 0.0, 0.0]]])  # points at label 0; its length must not matter
    scores, void = in_vocabulary_scores(embeddings, text, TWO, torch.tensor([0.0, 0.0, 9.0]), 2.0)
    total = math.exp(2) + 1 + 1  # cosines 1, 0 and (void) 0, times the scale 2
    assert scores[0, 0].tolist() == pytest.approx([math.exp(2) / total, 1 / total])
    assert void.item() == pytest.approx(1 / total)


def test_without_void_the_scores_sum_to_one() -> None:
    scores, void = in_vocabulary_scores(torch.randn(2, 5, 3), torch.eye(3)[:2], TWO, None, 100.0)
    assert torch.allclose(scores.sum(-1), torch.ones(2, 5))
    assert not void.any()


def test_invalid_regions_score_one_for_every_label() -> None:
    valid = torch.tensor([[True, False], [False, True]])
    features = torch.eye(2)  # region 0 (image 0, query 0) and region 1 (image 1, query 1)
    scores = region_scores(features, valid, torch.eye(2), TWO, math.log(3))
    assert scores[0, 0].tolist() == pytest.approx([0.75, 0.25])  # 3 : 1
    assert scores[1, 1].tolist() == pytest.approx([0.25, 0.75])
    assert (scores[~valid] == 1).all()


def test_no_valid_region_at_all() -> None:
    scores = region_scores(
        torch.zeros(0, 2), torch.zeros(1, 3, dtype=torch.bool), torch.eye(2), TWO, 1.0
    )
    assert (scores == 1).all()


def test_a_label_is_as_likely_as_its_best_word() -> None:
    owners = TermOwners(torch.tensor([0, 0, 1]), 2)  # two words for label 0
    assert owners.best(torch.tensor([[1.0, 5.0, 2.0]])).tolist() == [[5.0, 2.0]]


def test_geometric_mean_of_the_branches() -> None:
    p_in = torch.tensor([[[0.5, 0.25]]])
    p_clip = torch.tensor([[[0.08, 0.64]]])
    valid = torch.tensor([[True]])
    scores = fuse(p_in, None, p_clip, valid, weight=0.5, branches="both", log_fusion=False)
    assert scores[0, 0].tolist() == pytest.approx([0.2, 0.4])  # sqrt(.5*.08), sqrt(.25*.64)


def test_one_weight_per_label() -> None:
    p_in, p_clip = torch.tensor([[[0.5, 0.25]]]), torch.tensor([[[0.1, 0.7]]])
    weight = torch.tensor([0.0, 1.0])
    scores = fuse(
        p_in, None, p_clip, torch.tensor([[True]]), weight=weight, branches="both", log_fusion=False
    )
    assert scores[0, 0].tolist() == pytest.approx([0.5, 0.7])


def test_weight_zero_is_not_clip_only() -> None:
    p_in, p_clip = torch.rand(1, 4, 3), torch.rand(1, 4, 3)
    valid = torch.tensor([[True, False, True, True]])
    scores = fuse(p_in, None, p_clip, valid, weight=0.0, branches="both", log_fusion=False)
    assert torch.allclose(scores, p_in)


def test_branches() -> None:
    p_in, p_clip = torch.rand(1, 2, 3), torch.rand(1, 2, 3)
    valid = torch.tensor([[True, False]])
    only_in = fuse(p_in, None, p_clip, valid, weight=0.7, branches="embedding", log_fusion=False)
    assert torch.equal(only_in, p_in)
    only_clip = fuse(p_in, None, p_clip, valid, weight=0.7, branches="clip", log_fusion=False)
    assert torch.equal(only_clip[0, 0], p_clip[0, 0])
    assert not only_clip[0, 1].any()  # the invalid proposal is left out


@pytest.mark.parametrize("branches", ["both", "embedding"])
def test_proposals_without_embeddings_need_the_clip_branch(branches: str) -> None:
    with pytest.raises(InputError, match='branches="clip"'):
        fuse(
            None,
            None,
            torch.rand(1, 1, 2),
            torch.ones(1, 1).bool(),
            weight=0.5,
            branches=branches,
            log_fusion=False,
        )  # type: ignore[arg-type]


def test_log_fusion_by_hand() -> None:
    p_in, p_void = torch.tensor([[[0.6, 0.2]]]), torch.tensor([[0.2]])
    scores = fuse(
        p_in,
        p_void,
        None,
        torch.tensor([[True]]),
        weight=0.0,
        branches="embedding",
        log_fusion=True,
    )
    # softmax(log p) = p / sum p = (0.75, 0.25); times (1 - 0.2) = (0.6, 0.2); void 0.2; they sum to
    # one, so the softmax of their logarithms gives them back
    assert scores[0, 0].tolist() == pytest.approx([0.6, 0.2], abs=1e-6)


def test_log_fusion_survives_zero_scores() -> None:
    scores = fuse(
        torch.zeros(1, 1, 3),
        torch.ones(1, 1),
        None,
        torch.ones(1, 1).bool(),
        weight=0.0,
        branches="embedding",
        log_fusion=True,
    )
    assert torch.isfinite(scores).all()


def test_map_is_the_sum_over_proposals() -> None:
    masks = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]])  # two proposals, 1 x 3 pixels
    scores = torch.tensor([[0.6, 0.2], [0.1, 0.5]])
    found = label_map(scores, masks, (1, 3), keep_scores=True)
    assert found.scores is not None
    expected = [[[0.6, 0.7, 0.1]], [[0.2, 0.7, 0.5]]]
    assert np.allclose(found.scores.numpy(), expected)
    assert found.labels.tolist() == [[0, 0, 1]]  # the tie in the middle goes to the first label
    assert found.confidence[0].tolist() == pytest.approx([0.75, 0.5, 0.5 / 0.6])


def test_chunks_of_labels_change_nothing() -> None:
    torch.manual_seed(0)
    scores, masks = torch.rand(7, 23), torch.rand(7, 9, 11)
    whole = label_map(scores, masks, (20, 17), keep_scores=True)
    pieces = label_map(scores, masks, (20, 17), keep_scores=True, budget=4 * 20 * 17 * 5)
    assert torch.equal(whole.labels, pieces.labels)
    assert torch.allclose(whole.confidence, pieces.confidence, atol=1e-6)
    assert whole.scores is not None
    direct = F.interpolate(
        torch.einsum("qk,qhw->khw", scores, masks)[None],
        (20, 17),
        mode="bilinear",
        align_corners=False,
    )[0]
    assert torch.allclose(whole.scores, direct, atol=1e-5)
    assert torch.equal(whole.labels, direct.argmax(0))


def test_a_pixel_without_evidence_has_no_confidence() -> None:
    found = label_map(torch.ones(1, 2), torch.zeros(1, 2, 2), (2, 2))
    assert (found.confidence == 0).all()


@pytest.mark.parametrize("sharpness", [0.5, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_labels_that_need_no_map_change_nothing(seed: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = (sharpness * torch.randn(6, 300, generator=generator)).softmax(-1)
    masks = torch.rand(6, 9, 11, generator=generator) ** 4
    masks[:, :2] = 0.0  # no evidence
    whole = label_map(scores, masks, (20, 17), keep_scores=True)
    short = label_map(scores, masks, (20, 17))
    assert torch.equal(whole.labels, short.labels)
    assert torch.allclose(whole.confidence, short.confidence, atol=1e-5)


def test_a_label_that_leads_nowhere_may_win_where_masks_overlap() -> None:
    scores = torch.zeros(2, 40)
    scores[0, 7], scores[1, 9] = 0.5, 0.5  # lead
    scores[:, 30] = 0.4  # second in both; 0.8 > 0.5 where both masks are
    masks = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]])
    assert label_map(scores, masks, (1, 3)).labels.tolist() == [[7, 30, 9]]


def test_cells_beyond_the_photo_reach_into_it() -> None:
    # 16 rows are two cells of 8; the third cell speaks in the last rows, where its tent begins
    cells = torch.zeros(40, 3, 1)
    cells[1, 1], cells[3, 2] = 0.6, 1.0  # lead
    cells[2, 1], cells[2, 2] = 0.4, 0.95  # second in both
    scores, masks, dense = torch.zeros(1, 40), torch.zeros(1, 16, 8), DenseEvidence(cells, 8)
    # at row 15, 7/16 of the way: 0.34 for 1, 0.64 for 2, 0.44 for 3
    found = label_map(scores, masks, (16, 8), dense=dense)
    assert found.labels[-3:, 0].tolist() == [2, 2, 2]
    whole = label_map(scores, masks, (16, 8), dense=dense, keep_scores=True)
    assert torch.equal(found.labels, whole.labels)


def test_cells_can_be_learned_through() -> None:
    embeddings = torch.randn(1, 2, 3, 4, requires_grad=True)
    coarse = F.normalize(torch.randn(1, 2, 2, 2), dim=1).requires_grad_()
    for log_fusion in (False, True):
        cells_of(embeddings, coarse, log_fusion=log_fusion)[0, 0].sum().backward()
        assert embeddings.grad is not None
        assert coarse.grad is not None
        assert embeddings.grad.abs().max() > 1e-4


@pytest.mark.parametrize("size", [(1, 3), (2, 6)])
def test_bounds_may_be_open_though_no_label_reaches_them(size: tuple[int, int]) -> None:
    scores = torch.zeros(2, 40)
    scores[0, 7], scores[1, 9] = 0.5, 0.5
    scores[0, 20], scores[1, 30] = 0.4, 0.4  # 0.8 together, but they are two
    masks = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]])
    for dense in (None, DenseEvidence(torch.zeros(40, 1, 1), 8)):
        found = label_map(scores, masks, size, dense=dense)
        assert set(found.labels.flatten().tolist()) == {7, 9}


def cells_of(
    embeddings: torch.Tensor, region_map: torch.Tensor | None, **changes: object
) -> Tensor:
    settings = {"weight": 0.5, "branches": "both", "log_fusion": False, **changes}
    return dense_scores(
        embeddings,
        region_map,
        torch.eye(2),
        TWO,
        None,
        embedding_scale=math.log(3),
        region_scale=math.log(9),
        **settings,  # type: ignore[arg-type]
    )


def test_cells_have_the_ensemble_of_both_dense_maps() -> None:
    # two cells that point at label 0 and at label 1; the coarse map's only cell points at label 1
    embeddings = torch.eye(2)[:, None][None]  # (1, D, 1, 2)
    coarse = torch.tensor([0.0, 1.0])[None, :, None, None]
    found = cells_of(embeddings, coarse)
    assert found.shape == (1, 2, 1, 2)
    p_in, p_clip = [[0.75, 0.25], [0.25, 0.75]], [0.1, 0.9]  # 3 : 1 and 1 : 9
    expected = [[math.sqrt(p_in[cell][k] * p_clip[k]) for cell in (0, 1)] for k in (0, 1)]
    assert torch.allclose(found[0, :, 0], torch.tensor(expected))
    alone = cells_of(embeddings, None, branches="embedding")
    assert torch.allclose(alone[0, :, 0], torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    with pytest.raises(InputError, match='branches="embedding"'):
        cells_of(embeddings, None)


def test_the_coarse_map_is_read_between_its_cells() -> None:
    embeddings = torch.ones(1, 2, 1, 4)
    coarse = torch.eye(2)[:, None][None]  # (1, D, 1, 2): label 0 on the left, 1 on the right
    found = cells_of(embeddings, coarse, branches="clip", weight=1.0)
    # probabilities 0.9 and 0.1 at places 1/4 and 3/4; bilinear at 1/8, 3/8, 5/8, 7/8
    assert torch.allclose(found[0, 0, 0], torch.tensor([0.9, 0.7, 0.3, 0.1]))


def test_cells_are_proposals_with_tents_for_masks() -> None:
    # one mask over the left half says label 0 with 0.6; two cells of 2 pixels say 0.3 and 0.9 for
    # label 1: at pixels -1/4 (border), 1/4, 3/4 and 5/4 of the way
    masks = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    scores = torch.tensor([[0.6, 0.0]])
    dense = DenseEvidence(torch.tensor([[[0.0, 0.0]], [[0.3, 0.9]]]), stride=2)
    found = label_map(scores, masks, (1, 4), dense=dense, keep_scores=True)
    assert found.scores is not None
    assert np.allclose(found.scores[:, 0], [[0.6, 0.6, 0, 0], [0.3, 0.45, 0.75, 0.9]])
    assert found.labels.tolist() == [[0, 0, 1, 1]]
    assert found.confidence[0].tolist() == pytest.approx([0.6 / 0.9, 0.6 / 1.05, 1.0, 1.0])


def test_a_grid_may_reach_beyond_the_photo() -> None:
    dense = DenseEvidence(torch.rand(3, 2, 3), stride=8)
    found = label_map(torch.zeros(1, 3), torch.zeros(1, 9, 20), (9, 20), dense=dense)
    full = F.interpolate(dense.scores[None], (16, 24), mode="bilinear", align_corners=False)[0]
    assert torch.equal(found.labels, full[:, :9, :20].argmax(0))


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_need_no_map_change_nothing_beside_cells(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = (4.0 * torch.randn(6, 300, generator=generator)).softmax(-1)
    masks = torch.rand(6, 9, 11, generator=generator) ** 4
    cells = (4.0 * torch.randn(300, 3, 3, generator=generator)).softmax(0)
    dense = DenseEvidence(2.0 * cells, stride=4)
    whole = label_map(scores, masks, (20, 17), dense=dense, keep_scores=True)
    short = label_map(scores, masks, (20, 17), dense=dense)
    assert torch.equal(whole.labels, short.labels)
    assert torch.allclose(whole.confidence, short.confidence, atol=1e-5)


@pytest.mark.parametrize("seed", range(60))
def test_no_winner_is_overlooked(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of any size on masks of any size, flat scores: many labels come close."""
    draw = torch.Generator().manual_seed(seed)
    looked: list[int] = []
    real = fusion._contenders

    def counted(*given: object) -> Tensor:
        found = real(*given)  # type: ignore[arg-type]
        looked.append(len(found))
        return found

    monkeypatch.setattr(fusion, "_contenders", counted)
    h, w, H, W = (int(n) for n in torch.randint(1, 60, (4,), generator=draw))
    Q, K, stride = 5, 400, int(torch.randint(1, 9, (1,), generator=draw))
    scores = torch.randn(Q, K, generator=draw).mul(1 + seed % 3).softmax(-1)
    masks = torch.rand(Q, h, w, generator=draw) ** 6
    if seed % 4 == 0:
        masks = (masks > 0.5).float()  # nothing at all at some pixels
    dense = None
    if seed % 2:
        beyond = seed % 3  # encoders pad photos, so the grid may reach beyond the masks
        grid = -(-h // stride) + beyond, -(-w // stride) + beyond
        cells = torch.randn(K, *grid, generator=draw).mul(2).softmax(0)
        dense = DenseEvidence(cells, stride)
    whole = label_map(scores, masks, (H, W), dense=dense, keep_scores=True)
    assert looked == []
    short = label_map(scores, masks, (H, W), dense=dense)
    assert len(looked) <= 1
    assert whole.scores is not None
    found = whole.scores.gather(0, short.labels[None])[0]
    torch.testing.assert_close(found, whole.scores.amax(0), atol=0, rtol=2e-6)
    assert (whole.labels == short.labels).float().mean() > 0.999


def test_contenders_are_those_that_could_win_in_a_block() -> None:
    # two masks, the left and the right 16 columns of 32; label 0 leads both with 0.5
    masks = torch.zeros(2, 16, 32)
    masks[0, :, :16], masks[1, :, 16:] = 1.0, 1.0
    scores = torch.tensor([[0.5, 0.3, 0.2, 0.1], [0.5, 0.0, 0.2, 0.1]])
    floor = torch.full((16, 32), torch.inf)
    rest = torch.tensor([1, 2, 3])

    def found(left: float, right: float) -> list[int]:
        floor[3, 2], floor[3, 30] = left, right
        return _contenders(scores, masks, None, rest, floor).tolist()

    # each block sees one column of the other one: 0.3 + 0.0, 0.2 + 0.2, 0.1 + 0.1
    assert found(torch.inf, torch.inf) == []
    assert found(0.35, torch.inf) == [2]
    assert found(0.3, torch.inf) == [1, 2]
    assert found(torch.inf, 0.2) == [1, 2, 3]
    assert found(0.45, 0.41) == []


@pytest.mark.parametrize("branches", ["both", "embedding", "clip"])
@pytest.mark.parametrize("log_fusion", [False, True])
@pytest.mark.parametrize("void", [False, True])
def test_cells_are_fused_as_proposals_are(branches: Branches, log_fusion: bool, void: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    owners = TermOwners(torch.tensor([0, 2, 1, 0]), 3)  # label 0 has a synonym
    text = F.normalize(torch.randn(4, 8, generator=draw), dim=1)
    embeddings, coarse = (
        torch.randn(2, 8, 3, 5, generator=draw),
        F.normalize(torch.randn(2, 8, 3, 5, generator=draw), dim=1),
    )
    nothing = torch.randn(8, generator=draw) if void else None
    weight = torch.tensor([0.2, 0.7, 1.0])
    found = dense_scores(
        embeddings,
        coarse,
        text,
        owners,
        nothing,
        embedding_scale=5.0,
        region_scale=7.0,
        weight=weight,
        branches=branches,
        log_fusion=log_fusion,
    )
    rows, valid = embeddings.flatten(2).transpose(1, 2), torch.ones(2, 15, dtype=torch.bool)
    p_in, p_void = in_vocabulary_scores(rows, text, owners, nothing, 5.0)
    features = coarse.flatten(2).transpose(1, 2).flatten(0, 1)
    p_clip = region_scores(features, valid, text, owners, 7.0)
    expected = fuse(
        p_in,
        p_void,
        p_clip,
        valid,
        weight=weight,
        branches=branches,
        log_fusion=log_fusion,
    )
    expected = expected.transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
