"""The work of mining on a Ray cluster: embedding and scoring on Ray Data, a task for every shard that is searched.

Results come back in the order of the inputs, in the same parts as from the local engine, and the calling process writes
them: both engines leave the same files and share their cache. Tested in tests/mining/test_ray_engine.py.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.mining.engine import Network, Networks
from lavis_mafa.mining.search import Nearest, Shards, ShardSearch

LOCAL_WORKERS = 2  # of the cluster that is started where none is given


class Worker:
    """One of Ray Data's actors; builds the networks at its first part and keeps them."""

    def __init__(self, build: Callable[[], Networks], network: Network, fingerprints: tuple[str, ...]) -> None:
        self.build, self.network, self.fingerprints = build, network, fingerprints

    @cached_property
    def call(self) -> Callable[..., NDArray[np.floating]]:
        networks = self.build()
        if fingerprints(networks) != self.fingerprints:
            raise ValueError("a Ray worker has different weights from this machine: give all nodes the same files")
        return networks.function(self.network)

    def __call__(self, batch: Mapping[str, Iterable[bytes]]) -> dict[str, list[bytes]]:
        """Parts travel as bytes, whatever their shapes; user errors are sent back and raised in the calling process."""
        (part,) = batch["part"]
        try:
            result: object = self.call(*pickle.loads(part))
        except ValueError as error:
            result = ValueError(str(error))
        return {"result": [pickle.dumps(result, protocol=5)]}


class RayEngine:
    """An Engine (engine.py) on the cluster that RAY_ADDRESS names, else on one of two workers, started here.

    build: makes the networks in every worker, so it travels by pickle. networks: the same ones, here. gpus: one worker
    for each GPU of the cluster, not for each CPU.

    Raises:
        ValueError: no Ray, or a cluster without what the workers need.
    """

    def __init__(self, build: Callable[[], Networks], networks: Networks, gpus: bool = False) -> None:
        self.ray = _started()
        self.build, self.fingerprints = build, fingerprints(networks)
        self.kind = "GPU" if gpus else "CPU"
        self.workers = int(self.ray.cluster_resources().get(self.kind, 0))
        if not self.workers:
            raise ValueError(f"the Ray cluster has no {self.kind}: add a node that has one, or change run.device")

    def run(self, network: Network, inputs: Iterable[tuple[object, ...]]) -> Iterator[NDArray[np.floating]]:
        parts = [{"part": pickle.dumps(each, protocol=5)} for each in inputs]
        if not parts:
            return
        data = self.ray.data.from_items(parts, override_num_blocks=len(parts))
        data.context.execution_options.preserve_order = True
        data.context.enable_progress_bars = False  # the parts are counted where they are written
        results = data.map_batches(
            Worker,
            fn_constructor_args=(self.build, network, self.fingerprints),
            batch_size=1,
            concurrency=min(self.workers, len(parts)),
            **{f"num_{self.kind.lower()}s": 1},
        )
        for row in results.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, ValueError):
                raise result
            yield result

    def search_shards(self, search: ShardSearch, shards: Shards) -> Iterator[Nearest]:
        """At most as many shards are in flight as there are workers."""
        task = self.ray.remote(lambda search, start, items: search(start, items))
        shared = self.ray.put(replace(search, anchors_APD=np.asarray(search.anchors_APD)))  # a memory map stays here
        waiting: deque[object] = deque()
        for start, items in shards:
            waiting.append(task.remote(shared, start, np.asarray(items)))
            if len(waiting) == self.workers:
                yield self.ray.get(waiting.popleft())
        while waiting:
            yield self.ray.get(waiting.popleft())


def fingerprints(networks: Networks) -> tuple[str, ...]:
    """Of all retrievers and of the scorer: workers must have built the same."""
    return *(retriever.fingerprint for retriever in networks.retrievers), networks.scorer_fingerprint


def _started() -> ModuleType:
    """Connects to Ray without usage reports and without a dashboard."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 would give way to everything else on the machine
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError('--engine ray needs Ray: pip install -e ".[ray]", or drop --engine ray') from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        workers, dashboard = (None, None) if address else (LOCAL_WORKERS, False)
        ray.init(
            address or "local",
            num_cpus=workers,
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    module: ModuleType = ray
    return module
