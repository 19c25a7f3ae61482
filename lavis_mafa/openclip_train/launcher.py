"""open_clip's own training with MAFA: `python -m lavis_mafa.openclip.train`, on CSV data or WebDataset shards.

All arguments of open_clip_train are open_clip's; ours begin with --mafa. Nothing of open_clip is copied or changed on
disk: while it runs, its `get_data`, `create_loss` (of open_clip 4: `create_task`) and readers are ours, and we see the
model that it creates. Tested in tests/openclip/test_train.py, test_shards.py, test_judge.py and test_ranks.py.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import open_clip
import torch
from omegaconf import OmegaConf
from torch import nn

from lavis_mafa.common.cache import JOB
from lavis_mafa.common.folders import held
from lavis_mafa.common.hashing import digest
from lavis_mafa.common.loading import worker_errors
from lavis_mafa.common.plugins import load_plugins
from lavis_mafa.common.ranks import get_world_size, patient_group
from lavis_mafa.common.stdout import print_anything
from lavis_mafa.config.checks import check_keys
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.scorer import PairScorer, View, looks_at_images, view_of
from lavis_mafa.data.images import whole_files_only
from lavis_mafa.data.own_captions import OwnCaptions
from lavis_mafa.data.records import TextProcessor
from lavis_mafa.openclip.judges import BiEncoderJudge
from lavis_mafa.openclip.loss import MafaClipLoss, MafaSigLipLoss
from lavis_mafa.openclip.names import model_config
from lavis_mafa.openclip_train.answers import Answers, EncoderAnswers, ScorerAnswers
from lavis_mafa.openclip_train.arguments import check, con_d_rule, csv_images, parser, refuse_old_names
from lavis_mafa.openclip_train.batches import HAS_TASKS
from lavis_mafa.openclip_train.csv_feed import CsvRows, Feed, pair_ids
from lavis_mafa.openclip_train.csv_table import as_in_the_data, read_pairs, read_weights
from lavis_mafa.openclip_train.data_check import check_data
from lavis_mafa.openclip_train.feature_table import feature_table
from lavis_mafa.openclip_train.images import CsvImages, checked_rows
from lavis_mafa.openclip_train.loss_adapter import LossAdapter
from lavis_mafa.openclip_train.shard_decode import already_decoded
from lavis_mafa.openclip_train.shard_feed import Identity, ShardFeed, Shards, encoder, shard_stages, without_eof
from lavis_mafa.openclip_train.shard_names import shard_names
from lavis_mafa.openclip_train.tower_tokens import tower_tokens

BUFFER = 16  # batches of a shard buffer where --mafa-search-space does not say


class Training:
    """What takes the place of open_clip_train's functions in one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        check(options)
        self.options, self.images = options, csv_images(options)
        self.folders = ExitStack()  # that this process holds
        self.model: nn.Module | None = None
        self.feed: Feed | ShardFeed | None = None
        self.answers: Answers | None = None
        self.read: TextProcessor = str  # what the tokenizer makes of a caption before it is cut into tokens
        self.judge = None
        if options.mafa_bi_encoder:
            self.judge = BiEncoderJudge(options.mafa_bi_encoder_margin, options.mafa_bi_encoder_action)

    def create_model_and_transforms(self, *args: object, **kwargs: object) -> tuple[nn.Module, View, View]:
        """open_clip's; the first model is the one that is trained."""
        created: tuple[nn.Module, View, View] = open_clip.create_model_and_transforms(*args, **kwargs)
        self.model = created[0] if self.model is None else self.model
        return created

    def get_data(
        self, args: argparse.Namespace, preprocess_fns: Any, epoch: int = 0, tokenizer: Any = None, **more: Any
    ) -> dict[str, Any]:
        """open_clip's data with the training loader replaced by our feed."""
        from open_clip_train import data as open_clip_data

        if get_world_size() > 1:
            patient_group()  # rank 0 embeds and plans alone, for longer than NCCL's ten minutes
        plain = open_clip_data.get_wds_dataset
        self.read = getattr(tokenizer, "clean_fn", str)

        def get_wds_dataset(args: argparse.Namespace, preprocess: Any, is_train: bool, **more: Any) -> Any:
            identity = None
            if is_train:
                self.answers = self._answers(args)
                names = shard_names(args.train_data, lambda pattern: open_clip_data.expand_urls(pattern)[0])
                identity = Identity(names, self._view, self.read)
            with replaced(open_clip_data.wds, **shard_stages(open_clip_data, identity)):
                return plain(args, preprocess, is_train, **more)

        with replaced(open_clip_data, get_wds_dataset=get_wds_dataset):
            data: dict[str, Any] = open_clip_data.get_data(args, preprocess_fns, epoch, tokenizer, **more)
        if "train" not in data:
            return data
        loader = data["train"].dataloader
        dataset = getattr(loader, "dataset", None)
        if hasattr(dataset, "images") and hasattr(dataset, "captions"):
            self.feed = self._rows(args, dataset)
        else:  # check_data lets no other kind pass
            self.feed = self._shards(args, data["train"])
        data["train"] = open_clip_data.DataInfo(dataloader=self.feed, shared_epoch=self.feed)
        return data

    def _rows(self, args: argparse.Namespace, dataset: CsvRows) -> Feed:
        """CSV data: epochs are planned, and what a judge says of a row may be kept."""
        folder = self._folder(args)
        if args.rank == 0:
            self.folders.enter_context(held(folder, JOB, "--logs and --name"))
        self.answers = self._answers(args, dataset)
        ids_N2 = pair_ids(dataset.images, dataset.captions, self.read)
        ranks = _dim(args.model), args.rank, args.accum_freq, args.workers
        return Feed(dataset, ids_N2, self._planner(args, ids_N2), folder, *ranks, self._view, self.images)

    def _shards(self, args: argparse.Namespace, info: Shards) -> ShardFeed:
        """WebDataset: what streams by is grouped in a buffer, and is not seen again."""
        options = self.options
        space = options.mafa_search_space
        buffer = int(space) // args.batch_size if space.isdigit() else BUFFER
        buffer = max(buffer, 1) if options.mafa_sampling == "grit" else 1
        ranks = args.seed, args.rank, options.mafa_siblings, args.accum_freq
        return ShardFeed(info, encoder(self.model, args), buffer, *ranks)

    def _answers(self, args: argparse.Namespace, dataset: CsvRows | None = None) -> Answers | None:
        """The judge that the arguments name; of rows that come back a bi-encoder's features are kept."""
        options = self.options
        if options.mafa_con_d:
            scorer = _con_d(options, torch.device(args.device), _captions(dataset))
            kept = options.mafa_con_d_cache_tokens
            if kept and dataset is None:
                raise ValueError(
                    "--mafa-con-d-cache-tokens keeps tokens of image files, which shards have none of; drop it"
                )
            if dataset is None and looks_at_images(scorer) and view_of(scorer) is None:
                raise ValueError(
                    f"--mafa-con-d: {type(scorer).__name__} has no view by which it could see the images of shards"
                )
            paths = [str(path) for path in dataset.images] if kept else []
            where = self._folder(args), args.device, args.workers, self.images
            tokens = tower_tokens(scorer, paths, *where) if kept else None
            return ScorerAnswers(scorer, con_d_rule(options), tokens)
        if not options.mafa_bi_encoder:
            return None
        named = options.mafa_bi_encoder, options.mafa_bi_encoder_pretrained
        if dataset is None:
            return EncoderAnswers(*named, args.device)
        return feature_table(*named, dataset, self._folder(args), args.device, args.workers, self.images)

    @property
    def _view(self) -> View | None:
        """How the judge sees an image; None where it needs no look."""
        return self.answers.view if self.answers is not None else None

    @staticmethod
    def _folder(args: argparse.Namespace) -> Path:
        return Path(args.logs) / args.name / "mafa"

    def create_loss(self, args: argparse.Namespace) -> LossAdapter:
        """The managed loss that the arguments ask for, and what it needs of each batch."""
        if args.distill or "coca" in args.model.lower():
            raise ValueError("only ClipLoss and SigLipLoss have a MAFA counterpart: drop distillation or CoCa")
        if getattr(args, "horovod", False):
            raise ValueError("the ranks communicate by torch.distributed: start with torchrun and drop --horovod")
        if self.options.mafa_sampling == "random" and self.options.mafa_alpha > 0:
            logging.warning(
                "S-ITC without hard batches hurts (MAFA, Table 5): give --mafa-alpha 0 with random sampling"
            )
        connections, weight = self._connections(args)
        ours: dict[str, Any] = {"connections": connections, "connection_weight": weight, "judge": self.judge}
        if args.siglip:
            ranks = {"rank": args.rank, "world_size": args.world_size, "dist_impl": args.loss_dist_impl}
            return LossAdapter(MafaSigLipLoss(**ranks, **ours), self)
        loss = MafaClipLoss(
            local_loss=args.local_loss,
            gather_with_grad=args.gather_with_grad,
            cache_labels=True,
            rank=args.rank,
            world_size=args.world_size,
            **ours,
        )
        return LossAdapter(loss, self)

    def create_task(self, args: argparse.Namespace, model: nn.Module, **more: Any) -> nn.Module:
        """open_clip 4's task, with the managed loss in place of its own."""
        tokenizer = open_clip.get_tokenizer(args.model, cache_dir=args.cache_dir)
        self.read = getattr(tokenizer, "clean_fn", str)  # the loss is made before the data are read
        loss, plain = self.create_loss(args), open_clip.create_task(args, model, **more)
        if type(plain) not in (open_clip.task.CLIPTask, open_clip.task.SigLIPTask) or args.variable_text:
            raise ValueError(f"--model {args.model}: MAFA only supports CLIP and SigLIP with texts of fixed length")
        task: nn.Module = type(plain)(model, loss=loss)
        return task

    def _planner(self, args: argparse.Namespace, ids_N2: torch.Tensor) -> GritPlanner:
        space, options = self.options.mafa_search_space, self.options
        run = ids_N2.numpy(), args.model, args.seed, space, options.mafa_sampling, options.mafa_siblings
        return GritPlanner(
            batch_size=args.batch_size,
            world=args.world_size,
            search_space=int(space) if space.isdigit() else space,
            seed=args.seed,
            sampling=options.mafa_sampling,
            siblings=options.mafa_siblings,
            fingerprint=digest(*run),
            spread=True,
        )

    def _connections(self, args: argparse.Namespace) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Ids of the listed pairs, and their weights, if the file has any."""
        from open_clip_train import data as open_clip_data

        path = self.options.mafa_connections
        if path is None:
            return None, None
        columns = args.csv_img_key, args.csv_caption_key, args.csv_separator
        images, captions = read_pairs(path, *columns)
        if open_clip_data.get_dataset_fn(args.train_data, args.dataset_type) is open_clip_data.get_csv_dataset:
            images = as_in_the_data(images, captions, read_pairs(args.train_data, *columns), path)
        ids_P2 = pair_ids(images, captions, self.read)
        weights = read_weights(path, args.csv_separator)
        return ids_P2, None if weights is None else torch.tensor(weights)


@contextmanager
def replaced(module: ModuleType, **functions: Callable[..., object]) -> Iterator[None]:
    """The module's functions are ours while this lasts."""
    missing = [name for name in functions if not hasattr(module, name)]
    if missing:
        raise ValueError(
            f"{module.__name__} of open_clip {open_clip.__version__} has no {' or '.join(missing)} to replace; "
            "use MafaClipLoss in your own loop"
        )
    before = {name: getattr(module, name) for name in functions}
    for name, function in functions.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def main(argv: Sequence[str]) -> int | None:
    """Runs open_clip_train.main with our arguments taken out; returns what it returns."""
    from open_clip_train import data as open_clip_data
    from open_clip_train import main as open_clip_main

    print_anything()
    if "--help" in argv or "-h" in argv:
        parser().print_help()
    options, theirs = parser().parse_known_args(argv)
    refuse_old_names(theirs)
    training = Training(options)
    check_data(theirs, options)
    by_version = "create_task" if HAS_TASKS else "create_loss"
    ours = {name: getattr(training, name) for name in ("create_model_and_transforms", "get_data", by_version)}
    with replaced(open_clip_main, **ours), replaced(open_clip_data, **_readers(open_clip_data, training.images)):
        try:
            with training.folders, worker_errors():
                status: int | None = open_clip_main.main(theirs)
        finally:
            _quiet_torch()
        return status


def _readers(open_clip_data: ModuleType, images: CsvImages) -> dict[str, Any]:
    """What opens files in place of open_clip's own."""
    folders = SimpleNamespace(ImageFolder=images.image_folder)  # of --imagenet-val
    readers = {"CsvDataset": checked_rows(open_clip_data.CsvDataset, images), "datasets": folders}
    if HAS_TASKS:
        readers["decode_pil_rgb"] = already_decoded
    return {**readers, **without_eof(open_clip_data)}


def _quiet_torch() -> None:
    """open_clip sets every logger to INFO, at which torch prints statistics of its compiler as a process ends."""
    for name in logging.root.manager.loggerDict:
        if name.partition(".")[0] == "torch":
            logging.getLogger(name).setLevel(logging.WARNING)


def _con_d(options: argparse.Namespace, device: torch.device, captions: OwnCaptions | None = None) -> PairScorer:
    """The judge of a config's run.con_d, given as KEY=VALUE. captions: those of each image, where rows come back."""
    import lavis_mafa

    section, where = OmegaConf.from_dotlist(options.mafa_con_d), "--mafa-con-d"
    with whole_files_only():  # LAVIS changes Pillow's setting on import
        import lavis_mafa.scorers.without_lavis
        from lavis_mafa.scorers.registry import JUDGES, ScorerRequest, build_scorer, judge_of, keys_of

        load_plugins(options.mafa_plugins, "--mafa-plugins")
        if section.get("arch") not in JUDGES:
            try:
                lavis_mafa.register()
            except ImportError as error:
                raise ValueError(f'--mafa-con-d needs LAVIS (pip install -e ".[lavis,cpu]"): {error}') from error
        if not judge_of(section, where).is_model:
            check_keys(section, keys_of(section, where), where)
        else:
            from lavis_mafa.config.keys import check_judge

            check_judge(section, where)
        return build_scorer(ScorerRequest(section, where, device, con_d_rule(options), captions=captions))


def _captions(dataset: CsvRows | None) -> OwnCaptions | None:
    """Which captions each image of CSV data has; None for shards, which stream by."""
    if dataset is None:
        return None
    image_id_N = pair_ids(dataset.images, dataset.captions)[:, 0].numpy()
    return OwnCaptions.of(image_id_N, [str(caption) for caption in dataset.captions])


def _dim(model: str) -> int:
    return int(model_config(model, "--model")["embed_dim"])
