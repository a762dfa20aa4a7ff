from __future__ import annotations

import os
import socket

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

from scanseg.contracts import InputError  # noqa: E402
from scanseg.metrics.average_recall import ProposalRecall  # noqa: E402
from scanseg.metrics.confusion import ConfusionMatrix  # noqa: E402
from scanseg.metrics.iou import iou_scores  # noqa: E402
from scanseg.metrics.sg_iou import Relations, sg_iou  # noqa: E402
from scanseg.metrics.torchmetrics import (  # noqa: E402
    ProposalAverageRecall,
    SegmentationIou,
    _count_on_device,
)


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 6, (20, 30)), rng.integers(-1, 6, (20, 30))


def test_says_what_the_pure_functions_say() -> None:
    relations = Relations.build(6, {0: [1]}, {2: [3], 3: [2]})
    metric, counts = SegmentationIou(6, relations), ConfusionMatrix(6)
    for seed in range(3):
        prediction, truth = maps(seed)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        counts.update(prediction, truth)
    found, scores, guided = (
        metric.compute(),
        iou_scores(counts.counts),
        sg_iou(counts.counts, relations),
    )
    assert float(found["miou_union"]) == scores.miou_union
    assert float(found["pacc"]) == scores.pacc
    assert float(found["sg_iou_released"]) == guided.released.miou_union
    assert float(found["sg_iou_eq6_present"]) == guided.eq6.miou_present
    assert found["miou_union"].dtype == torch.float64
    metric.reset()
    assert int(metric.confusion.sum()) == 0


def test_the_accelerator_path_counts_the_same() -> None:
    prediction, truth = maps(9)
    truth[0, :5] = 255
    counts = ConfusionMatrix(6)
    counts.update(prediction, truth, ignore=255)
    on_device = _count_on_device(torch.from_numpy(prediction), torch.from_numpy(truth), 6, 255)
    assert (on_device.numpy() == counts.counts).all()
    with pytest.raises(InputError, match="prediction holds id 6"):
        _count_on_device(torch.tensor([6]), torch.tensor([0]), 6, None)
    with pytest.raises(InputError, match="truth holds id 7"):
        _count_on_device(torch.tensor([0]), torch.tensor([7]), 6, None)
    with pytest.raises(InputError, match="must agree"):
        _count_on_device(torch.tensor([0, 1]), torch.tensor([0]), 6, None)


def test_proposal_recall_says_what_the_pure_class_says() -> None:
    rng = np.random.default_rng(1)
    truth = np.zeros((2, 8, 8), bool)
    truth[0, :4], truth[1, 4:, :5] = True, True
    proposals, scores = rng.random((6, 8, 8)) < 0.5, rng.random(6)
    proposals[3] = truth[0]
    pure, metric = ProposalRecall((1, 6)), ProposalAverageRecall((1, 6))
    pure.update(proposals, truth, scores)
    metric.update(torch.from_numpy(proposals), torch.from_numpy(truth), torch.from_numpy(scores))
    assert {k: float(v) for k, v in metric.compute().items()} == {
        f"AR@{q}": v for q, v in pure.average_recall().items()
    }


def _rank(rank: int, port: int, queue: object) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    metric = SegmentationIou(6)
    for seed in range(rank, 5, 2):
        prediction, truth = maps(seed)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    found = metric.compute()
    queue.put((rank, {k: float(v) for k, v in found.items()}))  # type: ignore[attr-defined]
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_bits_of_one_process() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, port, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = dict(queue.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(30)
    counts = ConfusionMatrix(6)
    for seed in range(5):
        counts.update(*maps(seed))
    expected = iou_scores(counts.counts)
    for values in found.values():
        assert values["miou_union"] == expected.miou_union
        assert values["fwiou"] == expected.fwiou
