"""Every key of `run`: its type, its default and its meaning.

OmegaConf merges a YAML over these classes and refuses a value of another type; config/values.py checks the ranges.
A key that is not here is an error.
"""

# ruff: noqa: RUF009  `key` is a field of dataclasses
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lavis_mafa.common.schema import FROM_0, FROM_1, Range, Section, key


@dataclass
class CommonRun:
    """What training, evaluation and mining share."""

    output_dir: str = key("output/mafa", "the folder of everything that the run writes")
    plugins: list[str] = key(
        [], "modules, installed or in the current folder, that register judges, towers, targets, data sets: [my_judge]"
    )
    seed: int = key(42, "the same seed makes the same run", FROM_0)
    device: str = key(
        "auto", "auto (cuda where there is a GPU, else cpu), cpu, cuda, or cuda:N, one GPU for one process"
    )
    num_workers: int = key(0, "processes that load data, beside the main one", FROM_0)
    batch_size_eval: int = key(64, "images of a batch without gradient", FROM_1)
    con_d: Section | None = key(
        None,
        "who judges pairs (docs/guides/judges.md has them all): {arch: captions, encoder: …}, a sentence encoder on "
        "the image's captions; {arch, model_type, finetuned: …}, a frozen matching network; {arch: file, path: "
        "connections.parquet}, mined verdicts; {arch: self}, the model's own head; {arch: open_clip, vit_model: "
        "open_clip:NAME/TAG}, a bi-encoder; or a plugin's judge; null in mining: `model` itself",
    )
    judged_pairs: str | None = key(
        None, "table of pairs that people judged (docs/reference/judged-pairs.md), to measure model and Con-D against"
    )
    judged_threshold: float | None = key(
        None, "the label, share of yes votes or mean rating from which a judged pair matches; null: above 0.5", Range()
    )


@dataclass
class TrainRun(CommonRun):
    """`run` of `lavis_mafa.train` and `lavis_mafa.evaluate`."""

    task: str = key("mafa_pretrain", "LAVIS' task: what a step of training is, and what an evaluation asks")
    runner: str = key("grit_runner", "LAVIS' runner: the loop around the task")
    evaluate: bool = key(False, "evaluate and do not train")
    precision: Literal["fp32", "bf16", "fp16"] = key("fp32", "of autocast; fp16 needs a GPU")
    distributed: bool = key(False, "several processes; set by torchrun")
    world_size: int = key(1, "the number of processes; set by torchrun", FROM_1)
    rank: int = key(0, "the number of this process; set by torchrun", FROM_0)
    gpu: int = key(0, "the GPU of this process; set by torchrun", FROM_0)
    dist_url: str = key("env://", "where the processes meet, as torch.distributed has it")

    # optimisation (LAVIS' names)
    lr_sched: str = key("linear_warmup_cosine_lr", "LAVIS' schedule of the learning rate")
    init_lr: float = key(1e-4, "learning rate after the warm-up", FROM_0)
    min_lr: float = key(1e-5, "learning rate at the end of the schedule", FROM_0)
    warmup_lr: float = key(1e-6, "learning rate that the warm-up starts from", FROM_0)
    warmup_steps: int = key(2000, "steps of the warm-up", FROM_0)
    lr_decay_rate: float | None = key(None, "factor of an epoch in linear_warmup_step_lr", FROM_0)
    lr_layer_decay: float = key(
        1.0,
        "factor of the learning rate from each layer of a trained vision tower to the one below; 1: none",
        Range(0, 1),
    )
    weight_decay: float = key(0.05, "of AdamW", FROM_0)
    beta2: float = key(0.999, "of AdamW", Range(0, 1, open=True))
    max_epoch: int = key(10, "epochs, and the length of the schedule", FROM_1)
    stop_epoch: int | None = key(
        None, "end before max_epoch, which stays the length of the schedule; null: do not", FROM_1
    )
    batch_size_train: int = key(64, "records of a step on every process", FROM_1)
    accum_grad_iters: int = key(1, "batches of one update; pairs are mined within each", FROM_1)

    # batches (GRIT)
    sampling: Literal["grit", "random"] = key("grit", "batches of look-alikes, or random ones")
    random_epochs: int = key(
        1, "epochs of random batches before GRIT; the first has no embeddings to plan with", FROM_1
    )
    search_space: int | str = key(4800, "M records that a chain may choose from, at least batch_size_train, or `all`")
    skip_nearest: int = key(
        0, "GRIT skips this many of the nearest, which are likely false negatives (B3); M is at most 10,000", FROM_0
    )
    quantile: float = key(
        1.0, "GRIT goes to the record at this quantile of similarity, a fixed q of FALCON; 1: the nearest", Range(0, 1)
    )

    store_scores: bool | None = key(
        None,
        "keep what the judge says of a pair on disk, for the page of connections and for when the pair comes "
        "back; null: where a share of the pairs does (M/N from 0.5 % on)",
    )

    # evaluation
    train_splits: list[str] = key(["train"], "LAVIS' name; training reads `train`")
    valid_splits: list[str] = key([], "splits evaluated after every epoch; the first chooses the best checkpoint")
    test_splits: list[str] = key(["test"], "splits evaluated at the end")
    k_test: int = key(0, "candidates re-ranked by ITM; 0: ITC alone", FROM_0)
    zero_shot: Section | None = key(
        None,
        "mafa_openclip: {images: ROOT of class_name/*.png, templates: openai | simple | name, names: folders | "
        "imagenet, allow_symlinks: true | false}",
    )
    coco_captions: str | None = key(
        None,
        "COCO's captions_val2014.json: ECCV Caption and CxC of COCO's test split (extra `eccv`); re-ranked from k_test "
        "48 on",
    )
    test_set: str | None = key(
        None, "test_set.json of `mine --test-set`: the first test split with several matches a query"
    )
    cache_tokens: bool = key(False, "keep a frozen tower's tokens of every image on disk")
    token_folder: str | None = key(
        None, "folder of these tokens and of a judge's encoded captions; null: below output_dir"
    )

    # what a language model says (mafa_captioning, mafa_vqa)
    prompt: str | None = key(
        "",
        "mafa_vqa: text with {} or {question} where the question stands; mafa_captioning: what a caption begins with",
    )
    num_beams: int = key(5, "beams of the search; 1: greedy", FROM_1)
    max_len: int = key(10, "most new tokens of an answer or caption", FROM_1)
    min_len: int = key(
        1,
        "fewest new tokens; LAVIS' counts what stands before, too: T5's start token, OPT's and the caption's prompt",
        FROM_0,
    )
    length_penalty: float | None = key(None, "of the beam search; null: -1 for answers, 1 for captions")
    lemmatise: bool = key(False, "answers are judged as lemmas, as LAVIS does for OK-VQA; needs spaCy's English model")
    match: Literal["vqa", "any"] = key(
        "vqa", "vqa: VQA's soft accuracy, or exact where one answer is known; any: a hit on any answer"
    )
    references: str | None = key(None, "COCO file (local or URL) with the captions of a LAVIS data set's images")
    without_image: bool = key(False, "ask the language model without the image, too")
    expected: Section | None = key(
        None,
        "published figures to print beside ours, {name: figure}, of retrieval {name: {text: R@1, image: R@1}}",
    )

    # fine-tuned models of ALBEF (mafa_albef_vqa)
    answer_list: str | None = key(
        None, "JSON list or text file of the answers that are ranked; null: those of the training split"
    )
    num_ans_candidates: int = key(128, "answers that are ranked in full; their first word chooses them", FROM_1)

    # checkpoints
    resume_ckpt_path: str | None = key(None, "a checkpoint, or `auto`: the newest in output_dir")
    resume_changes: Literal["refuse", "allow"] = key(
        "refuse", "what a resume does where settings differ from the checkpoint's; results.json lists what `allow` took"
    )
    save_every_steps: int = key(0, "a checkpoint also after this many steps; 0: at the end of an epoch alone", FROM_0)
    save_every_minutes: float = key(15, "a checkpoint also this many minutes after the last one; 0: none", FROM_0)
    keep_checkpoints: int = key(
        2,
        "the newest, beside checkpoint_best.pth; the stores keep what the newest two name, older ones serve as weights",
        FROM_1,
    )


@dataclass
class MineRun(CommonRun):
    """`run` of `lavis_mafa.mine`."""

    task: Literal["mafa_mine"] = key("mafa_mine", "the name of this job; configs of version 0.1.0 state it")
    output_dir: str = key("output/mafa/mine", "the folder of everything that the run writes")
    split: str = key("train", "the split of the data set that is mined")
    low: float = key(0.5, "P(match) below: a negative", Range(0, 1))
    high: float = key(0.8, "P(match) above: a connection", Range(0, 1))
    target_precision: float | None = key(
        None,
        "in place of high the loosest bound whose precision is, by labels and with 95 % confidence, at least that",
        Range(0, 1, open=True),
    )
    test_set: bool = key(False, "write test_set.json, a test set with several matches a query (--test-set)")
    batch_size_train: int = key(
        96, "with target_precision: of the batches whose false negatives are estimated", Range(2)
    )
    search_space: int | str = key(4800, "of GRIT, likewise: records that a chain may choose from, or `all`")
    hide_siblings: bool = key(False, "show only an image's first caption; how many of the others are found is reported")

    calibration_curve: Literal["temperature", "isotonic"] = key(
        "temperature", "what `lavis_mafa.calibrate` fits: a temperature and a bias, or a step function"
    )

    # candidates (mining/candidates.py; words of sentence-transformers' mine_hard_negatives)
    retrievers: list[str] = key(
        ["model"],
        "who proposes candidates: model (the ITC of `model`), judge (where it has embeddings: captions near an image's "
        "own captions), or both",
    )
    range_min: int = key(0, "skip this many of the nearest", FROM_0)
    range_max: int = key(20, "how many of the nearest are judged, known positives not counted", FROM_1)
    min_score: float | None = key(None, "leave out pairs of a smaller ITC similarity", Range())
    max_score: float | None = key(None, "leave out pairs of a larger ITC similarity", Range())
    absolute_margin: float | None = key(
        None, "leave out pairs whose similarity is above that of the anchor's best own pair less this", Range()
    )
    relative_margin: float | None = key(
        None,
        "leave out pairs whose similarity is above that of the best own pair less this share of its magnitude",
        Range(0, 1),
    )
    index: Literal["auto", "flat", "ivf", "torch"] = key("auto", "of the search; auto: exact where affordable")
    nprobe: int = key(
        64, "cells that ivf looks into; summary.json says what share of the true nearest it found", FROM_1
    )

    cache_folder: str | None = key(None, "embeddings, neighbours, scores; null: below output_dir")
    review: str | None = key(None, "CSV of image, caption, label; null: review.csv of output_dir")
    review_size: int = key(200, "pairs written for people to review", FROM_0)
    gallery_size: int = key(2000, "connections shown", FROM_0)


Schema = type[TrainRun] | type[MineRun]
