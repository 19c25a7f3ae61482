"""Starts open_clip's training through the launcher, and sees what every call of the loss was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lavis_mafa.openclip_train import launcher as train

EPOCHS, BATCH = 3, 4


def arguments(train_data: Any, logs: Path, *more: Any, kind: str = "csv") -> list[str]:
    theirs = {"model": "tiny-train", "train-data": train_data, "dataset-type": kind, "epochs": EPOCHS}
    theirs |= {"batch-size": BATCH, "workers": 0, "precision": "fp32", "device": "cpu", "warmup": 1, "lr": 1e-3}
    theirs |= {"logs": logs, "name": "run", "log-every-n-steps": 1}
    if kind == "csv" and "--mafa-images" not in more:
        theirs["mafa-images"] = Path(train_data).absolute().parent
    return [str(word) for name, value in theirs.items() for word in (f"--{name}", value)] + [str(word) for word in more]


def run(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> list[dict[str, Any]]:
    """Trains; of every call of the loss its epoch, α, features, keywords and value."""
    calls: list[dict[str, Any]] = []

    def spied(self: Any, *features: Any, _forward: Any = train.LossAdapter.__call__, **rest: Any) -> Any:
        inner = self.loss.forward

        def forward(*args: Any, **keywords: Any) -> Any:
            out = inner(*args, **keywords)
            seen = {"epoch": self.feed.epoch, "alpha": self.loss.alpha, "n": len(args[0]), "loss": self.loss}
            given = {"image": args[0].detach().clone(), "text": args[1].detach().clone()}
            calls.append({**seen, **given, **keywords, **out})
            return out

        self.loss.forward = forward
        try:
            return _forward(self, *features, **rest)
        finally:
            self.loss.forward = inner

    monkeypatch.setattr(train.LossAdapter, "__call__", spied)
    train.main(argv)
    return calls
