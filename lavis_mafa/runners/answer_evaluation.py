"""What `stage2_runner` evaluates: predictions of every test split, by all ranks, and the report about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from lavis.datasets.datasets.base_dataset import BaseDataset
from omegaconf import OmegaConf
from torch.utils.data import Dataset, Subset, default_collate

from lavis_mafa.common.hashing import digest, digest_of
from lavis_mafa.common.loading import WatchedLoader
from lavis_mafa.common.progress import progress
from lavis_mafa.common.ranks import barrier, get_rank, get_world_size, is_main_process
from lavis_mafa.core.batch import on_device
from lavis_mafa.data.dataset import image_named
from lavis_mafa.evaluation.predictions import Predictions, merged
from lavis_mafa.models.trained import trained_state, weights_hash
from lavis_mafa.runners.answer_report import report_answers
from lavis_mafa.runners.evaluation import Evaluation
from lavis_mafa.runners.run import Results, Run
from lavis_mafa.tasks.answers import AnsweringTask

SAMPLE = 64  # numbers read of a frozen tensor
READ = ("image", "image_tokens", "image0", "image1", "text_input")
Batches = Iterator[tuple[Sequence[int], list[str]]]  # places of samples, and their answers


class AnswerEvaluation(Evaluation):
    """Evaluates the network of a run by what its task asks and judges. Nothing is validated between epochs."""

    def __init__(self, run: Run, task: AnsweringTask[BaseDataset]) -> None:
        super().__init__(run)
        self.task = task

    def report(self) -> Results:
        """Keep the last weights as model.safetensors, predict every test split, judge, and report."""
        run = self.run
        if is_main_process() and not run.evaluate_only:
            self.keep_final()
        run.network.eval()
        self.weights = weights_hash(run.network)
        data = OmegaConf.to_container(run.config.datasets_cfg, resolve=True)
        self.about = {"weights": self.weights, "frozen": frozen_hash(run.network), "datasets": digest(data)}
        found = {split: self._of_split(split) for split in run.test_splits}
        results = report_answers(run, self.task, self.weights, found) if is_main_process() else {}
        barrier()
        return results

    def _of_split(self, split: str) -> dict[str, dict[int, str]]:
        """`answers`, and with run.without_image those of the language model to the text alone, {item: text}."""
        dataset, task = self.run.splits[split], self.task
        passes: dict[str, Callable[[Sequence[int]], Batches]] = {
            "answers": lambda numbers: self._seeing(dataset, numbers)
        }
        if self.run.settings.get("without_image", False):
            passes["without_image"] = lambda numbers: self._blind(dataset, numbers)
        items, found = task.items(dataset), {}
        for name, batches in passes.items():
            about = {**task.settings(), **self.about, "pass": name, "items": digest(items)}
            folder = self.run.result_dir / self.weights
            folder.mkdir(parents=True, exist_ok=True)
            store = Predictions(folder, f"{split}_{name}", get_rank(), about)
            barrier()  # every rank has read what was done before any adds to it
            todo = [number for number, item in enumerate(items) if item not in store.done]
            for numbers, predicted in batches(todo[get_rank() :: get_world_size()]):
                store.append(dict(zip([items[number] for number in numbers], predicted, strict=True)))
            barrier()
            found[name] = merged(folder, f"{split}_{name}", store.about)
        return found

    def _seeing(self, dataset: Dataset[object], numbers: Sequence[int]) -> Batches:
        size, device = int(self.run.settings.batch_size_eval), self.run.device
        workers = int(self.run.settings.num_workers)
        loader = WatchedLoader(
            Subset(dataset, list(numbers)),
            batch_size=size,
            num_workers=workers,
            name_of=image_named(dataset, numbers),
            collate_fn=_collate,
        )
        for start, batch in enumerate(
            progress(loader, desc="predictions", unit="batch", disable=not is_main_process())
        ):
            with torch.no_grad():
                answers = self.task.answer(self.run.network, on_device(batch, device))
            yield numbers[start * size : (start + 1) * size], answers

    def _blind(self, dataset: Dataset[object], numbers: Sequence[int]) -> Batches:
        size = int(self.run.settings.batch_size_eval)
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            yield part, self.task.answer_without_image(self.run.network, dataset, part)


def _collate(samples: list[Mapping[str, object]]) -> dict[str, object]:
    """What a model reads of a sample; LAVIS' hold None and ragged answers beside it."""
    return {name: default_collate([sample[name] for sample in samples]) for name in READ if name in samples[0]}


def frozen_hash(network: torch.nn.Module) -> str:
    """Of the other parts, a language model of gigabytes among them: names, shapes and first numbers tell them apart."""
    own = trained_state(network)
    given = {key: value for key, value in sorted(network.state_dict().items()) if key not in own}
    return digest_of((key, tuple(value.shape), value.flatten()[:SAMPLE].tolist()) for key, value in given.items())
