"""The Ray engine: the same shards, given to actors by Ray Data.

Ray chooses where actors run, feeds them, and starts them again when they or their machines die.
Nothing is added to that: a shard that is given out twice is found done, or is written again with
the same bytes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scanseg.batch.plan import Plan
from scanseg.batch.progress import Watch
from scanseg.batch.tables import done_shards, is_done
from scanseg.contracts import InputError, MissingExtra

if TYPE_CHECKING:
    import numpy as np

    from scanseg.batch.worker import BatchJob, Worker

_log = logging.getLogger("scanseg.batch")
_MOST_BLOCKS = 2000  # units in which Ray hands out shards


def run_ray(job: BatchJob, *, address: str | None, actors: int, gpus: float, watch: Watch) -> None:
    """Work on a job with Ray actors until every shard is done.

    Args:
        job: what to do; its source and output must mean the same on every node.
        address: of a running cluster (``"auto"`` finds the one of this machine); ``None`` starts
            Ray on this machine alone, reachable from nowhere else, and stops it in the end.
        actors: processes that hold a model.
        gpus: GPUs per actor.
        watch: follows progress in the meantime.

    Raises:
        InputError: what an actor said before it stopped, or there is no such cluster.
        MissingExtra: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra("ray", "--engine ray") from error

    plan = Plan(job.folder)
    missing = sorted(set(range(plan.shards)) - done_shards(job.folder))
    missing = missing or [0]  # done, but perhaps by another run: an actor will tell
    threads = job.threads or 1
    local: dict[str, Any] = {
        "num_cpus": actors * threads + 1,  # one for Ray's own tasks
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    try:
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(local if address is None else {"address": address}),
        )
    except (ConnectionError, ValueError) as error:
        raise InputError(f"no Ray cluster at {address}: start one with ray start") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        shards = ray.data.from_items(
            [{"shard": shard} for shard in missing],
            override_num_blocks=min(len(missing), _MOST_BLOCKS),
        )

        class Bound(ShardActor):  # travels by value: a restarted actor needs no object store
            def __init__(self) -> None:
                super().__init__(job)

        results = shards.map_batches(
            Bound,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(actors, len(missing)),
                max_tasks_in_flight_per_actor=1,  # no shards wait behind an actor that died
            ),
            num_cpus=threads,
            num_gpus=gpus or None,
        )
        with watch:
            for row in results.iter_rows():
                if row["error"]:
                    raise InputError(row["error"])
    finally:
        ray.shutdown()


class ShardActor:
    """A process of Ray's that holds the model.

    Args:
        job: what to do.
    """

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._worker: Worker | None = None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """Do shards: column ``shard`` in; the same with ``error``, empty if all is well, out."""
        from scanseg.batch.worker import Worker, log_shard
        from scanseg.faults import DeviceLost

        shards, errors = [int(shard) for shard in batch["shard"]], []
        for shard in shards:
            error = ""
            try:
                self._worker = self._worker or Worker(self._job)
                if not is_done(self._job.folder, shard):
                    log_shard(self._job.folder, self._worker.do(shard))
            except InputError as problem:  # an exception would make Ray try again
                error = str(problem)
            except DeviceLost as problem:
                _log.critical("shard %d: %s", shard, problem)
                os._exit(1)  # Ray starts the actor again, in a new process
            errors.append(error)
        return {"shard": shards, "error": errors}
