"""What MAFA does with a batch, as one frozen value. Tested in tests/core/test_settings.py."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from lavis_mafa.core.targets import TARGETS

CHOICES = {
    "negatives": ("hardest", "multinomial"),
    "action": ("connect", "drop", "keep", "distil"),
    "rule": ("absolute", "relative"),
    "candidates": ("hardest", "batch"),
    "positive_weight": ("equal", "probability"),
}

PRESETS: dict[str, dict[str, str | float | bool]] = {
    "mafa": {},
    # without S-ITC: above mafa in short runs of BLIP-2 on clean captions (projects/mafa/paper, the replication)
    "mafa+": {"alpha": 0.0},
    # the choices of the authors' code: siblings are negatives, a pair found twice counts twice, ITC stays on the rank
    "official": {"known_positives": False, "pairs_once": False, "itc_gather": False},
    # plain BLIP-2 stage 1: 2B drawn negatives, a pair drawn twice counts twice
    "none": {
        "negatives": "multinomial",
        "action": "keep",
        "alpha": 0.0,
        "known_positives": False,
        "pairs_once": False,
    },
}


@dataclass(frozen=True)
class MafaSettings:
    """The choices of MAFA (arXiv 2312.06112) for one run; the defaults are the preset `mafa`.

    negatives: hardest of the batch (GRIT-VLP, MAFA) or drawn by similarity (ALBEF, BLIP-2).
    candidates: which pairs are judged. hardest: that of every anchor (MAFA). batch: all B x B pairs of the rank; every
        match is a positive of the ITC in both directions, and ITM and the text loss take an anchor's most similar
        match and its most similar negative (core/whole_batch.py). For judges that cost no network pass a pair.
    action: what becomes of a connection. connect: a positive. drop: no part of its anchor's ITC row, and its spare
        takes its place as of an ambiguous pair. keep: every candidate stays a negative, whatever its score; verdicts
        are only counted. distil: the matching head learns the score itself, nothing is connected (a control: what
        Con-D gives as a teacher).
    rule: when a candidate is a connection. absolute: by the bounds of P(match). relative: where its ITC similarity is
        at least own_share of its anchor's own pair; no Con-D is used (with action drop NV-Retriever's rule, arXiv
        2407.15831; with connect and own_share 1 PCME++'s pseudo-positives, arXiv 2305.18171, section 3.3).
    own_share: of rule relative; NV-Retriever's is 0.95.
    low, high: bounds of P(match); below low a negative, above high a connection, else ambiguous.
    targets: of the ITC beside labels and connections. s_itc: smoothed over the rank's columns (MAFA). one_hot: none.
        momentum: what a moving average of the model says (ALBEF). consistency: one_hot, and a loss that draws the two
        directions together (GRIT-VLP). core/targets.py has them; a plugin may add to them.
    alpha, alpha_from_epoch: S-ITC smoothing, and the first epoch (from 0) that has it (Table 5).
    label_smoothing: plain label smoothing of the ITC where S-ITC is off (LAVIS' BLIP-2: 0.1).
    distillation, ema: of targets momentum, the weight of its predictions, and the decay of the moving average.
    consistency: of targets consistency, the weight of its loss.
    positive_weight: of a connection in its anchor's ITC target. equal: that of the own pair. probability: its P(match),
        or what a file of verdicts has in its column `weight`; own and known pairs weigh 1.
    known_positives: equal images or captions are positives, never negatives.
    pairs_once: a pair that was found in both directions enters ITM and LM once.
    verify_spare: score a spare before it becomes a negative.
    itc_key_grad: let the ITC gradient reach the keys, not only the queries.
    itc_gather: compare with the keys of all ranks.

    Raises:
        ValueError: a value that is not allowed.
    """

    negatives: str = "hardest"
    candidates: str = "hardest"
    action: str = "connect"
    targets: str = "s_itc"
    rule: str = "absolute"
    own_share: float = 0.95
    low: float = 0.5
    high: float = 0.8
    alpha: float = 0.5
    alpha_from_epoch: int = 1
    label_smoothing: float = 0.1
    distillation: float = 0.4
    ema: float = 0.995
    consistency: float = 0.2
    positive_weight: str = "equal"
    known_positives: bool = True
    pairs_once: bool = True
    verify_spare: bool = False
    itc_key_grad: bool = False
    itc_gather: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name), default=field.default)
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high}); they must satisfy 0 <= low <= high <= 1")
        if self.rule == "relative" and self.high == 1:
            raise ValueError("rule is relative and high is 1, which no score can exceed; leave high at its default")
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        """ValueError for a value that another one leaves without effect."""
        if self.candidates == "batch":
            if self.rule != "absolute" or self.action not in ("connect", "drop"):
                raise ValueError(
                    f"candidates is batch, rule {self.rule} and action {self.action}: the whole batch is judged by "
                    "rule absolute, for action connect or drop; set candidates: hardest for others"
                )
            if self.verify_spare:
                raise ValueError("verify_spare: over the whole batch every pair is judged; leave it false")
        if self.positive_weight == "probability" and (self.rule != "absolute" or self.action != "connect"):
            raise ValueError(
                f"positive_weight is probability, rule {self.rule} and action {self.action}: only rule absolute gives "
                "P(match), and only action connect makes positives; set positive_weight: equal for others"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> MafaSettings:
        """Settings from a config section: the preset first (`mafa` if none is named), then the explicit keys.

        Raises:
            ValueError: an unknown key, naming the closest valid one, and for a value that is not allowed.
        """
        explicit = dict(values)
        preset = explicit.pop("preset", "mafa")
        if preset not in PRESETS:
            raise ValueError(f"preset is {preset!r}; choose one of {', '.join(PRESETS)}")
        valid = [field.name for field in fields(cls)]
        for key in explicit:
            if key not in valid:
                raise ValueError(f"unknown setting {key!r}: did you mean {_closest(key, [*valid, 'preset'])!r}?")
        return cls(**{**PRESETS[preset], **explicit})  # type: ignore[arg-type]  # __post_init__ checks the types

    @property
    def asks_scorer(self) -> bool:
        """Whether a scorer decides about candidates."""
        return self.action != "keep" and self.rule == "absolute"

    @property
    def needs_teacher(self) -> bool:
        """Whether a moving average of the model has a say in the targets."""
        return TARGETS[self.targets].needs_teacher

    def smoothing_at(self, epoch: int) -> float:
        """The α of S-ITC in this epoch (counted from 0); 0.0 before it begins."""
        return self.alpha if epoch >= self.alpha_from_epoch else 0.0

    def distillation_at(self, epochs: float) -> float:
        """The weight of the momentum targets after so many (broken) epochs: it grows over two, as in LAVIS' ALBEF."""
        return self.distillation * min(1.0, epochs / 2)


def _closest(key: str, valid: Iterable[str]) -> str:
    return difflib.get_close_matches(str(key), valid, n=1, cutoff=0.0)[0]


def _check(name: str, value: object, default: object) -> None:
    allowed = _allowed(name, value, default)
    if allowed:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")


def _allowed(name: str, value: object, default: object) -> str:
    """What the setting may be, or "" if the value is that. bool is asked first: to Python, True is an int."""
    if choices := (*TARGETS,) if name == "targets" else CHOICES.get(name):
        return "" if value in choices else " or ".join(choices)
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else "a whole number >= 0"
    is_share = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    return "" if is_share else "a number in [0, 1]"
