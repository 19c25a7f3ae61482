"""Two choices of what is stored, measured on Flickr8k with a Con-D and a stage-1 model trained there.

1. May a score taken on one augmentation be stored? P(match) of the same pairs on the clean view and on two augmented
   ones (blip_image_train): how far apart, and how many verdicts change.
2. An image is stored for GRIT as the one query that fits its own caption best. Against the exact maximum over its
   queries: how often the hardest caption of a search space is the same, and how similar the chosen one is.

    python projects/benchmarks/stored_scores.py --con-d output/mafa/con_d_flickr8k/model.safetensors \\
        --json projects/benchmarks/stored_scores.json
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from flickr8k import build_model, training_data
from machine import about
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa.core.pairs import judge
from lavis_mafa.reports.table import write_json

IMAGES, SPACE = 256, 960


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--con-d", required=True, help="weights of a matching network, as pretrain_stage1_flickr8k.yaml names them"
    )
    parser.add_argument("--json", required=True)
    arguments = parser.parse_args()
    lavis_mafa.register()
    torch.manual_seed(0)
    model = build_model("blip2", load_finetuned=True, finetuned=arguments.con_d).eval()
    data = training_data()
    results = about()
    results["augmented"] = augmented_scores(model, data)
    results["stored_query"] = stored_query(model, data)
    write_json(arguments.json, results)
    print(OmegaConf.to_yaml(OmegaConf.create(results)))


@torch.no_grad()
def augmented_scores(model: Any, data: Any) -> dict[str, Any]:
    """Each image with the nearest caption of the others (ITC, clean view), scored on three views of the image."""
    from lavis.processors import load_processor

    augment = load_processor("blip_image_train", OmegaConf.create({"image_size": 224, "mean": 0.5, "std": 0.5}))
    images = [data.open_image(record) for record in range(IMAGES)]
    captions = [data.text_processor(data.table.caption(data.table.caption_rows(record)[0])) for record in range(IMAGES)]
    text_feat = model.encode_text(model.tokenize(captions))
    views = {"clean": _tokens(model, [data.vis_processor(image) for image in images])}
    for name in ("augmented", "augmented_again"):
        views[name] = _tokens(model, [augment(image) for image in images])
    feat = model.encode_image(views["clean"])[1]
    sim = torch.einsum("bqd,cd->bcq", feat, text_feat).amax(-1).fill_diagonal_(-1)
    text, image = sim.argmax(1), torch.arange(IMAGES)
    tokens = model.tokenize(captions)
    p = {
        name: model.match_logits(model.pair_state(view, tokens), image, text).softmax(1)[:, 1]
        for name, view in views.items()
    }
    verdict = {name: judge(value, 0.5, 0.8) for name, value in p.items()}
    return {
        "pairs": IMAGES,
        "mean_difference_clean_to_augmented": (p["clean"] - p["augmented"]).abs().mean().item(),
        "mean_difference_between_augmentations": (p["augmented"] - p["augmented_again"]).abs().mean().item(),
        "verdicts_changed_clean_to_augmented": (verdict["clean"] != verdict["augmented"]).float().mean().item(),
        "verdicts_changed_between_augmentations": (verdict["augmented"] != verdict["augmented_again"])
        .float()
        .mean()
        .item(),
        "connections_clean": int((verdict["clean"] == 1).sum()),
        "connections_kept_on_augmented": int(((verdict["clean"] == 1) & (verdict["augmented"] == 1)).sum()),
    }


def _tokens(model: Any, views: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([model.visual_encoder(part) for part in torch.stack(views).split(32)])


@torch.no_grad()
def stored_query(model: Any, data: Any) -> dict[str, Any]:
    """Over a search space of records: the hardest caption by the stored query, and by the maximum over all queries."""
    records = np.random.default_rng(0).permutation(len(data))[:SPACE]
    tokens = torch.cat(
        [_tokens(model, [data.vis_processor(data.open_image(int(r))) for r in part]) for part in np.split(records, 15)]
    )
    captions = [data.text_processor(data.table.caption(data.table.caption_rows(int(record))[0])) for record in records]
    feat = torch.cat([model.encode_image(part)[1] for part in tokens.split(64)])  # (M, Q, D)
    text = torch.cat(
        [model.encode_text(model.tokenize(captions[low : low + 64])) for low in range(0, SPACE, 64)]
    )  # (M, D)
    exact = torch.einsum("mqd,cd->mcq", feat, text).amax(-1).fill_diagonal_(-1)
    best = torch.einsum("mqd,md->mq", feat, text).argmax(1)
    stored = (feat[torch.arange(SPACE), best] @ text.T).fill_diagonal_(-1)
    chosen = stored.argmax(1)
    reached, hardest = exact[torch.arange(SPACE), chosen], exact.amax(1)
    own = torch.einsum("md,md->m", feat[torch.arange(SPACE), best], text)
    return {
        "records": SPACE,
        "same_hardest_caption": (chosen == exact.argmax(1)).float().mean().item(),
        "hardest_within_exact_top_10": (exact.topk(10, 1).indices == chosen[:, None]).any(1).float().mean().item(),
        "mean_similarity_hardest": hardest.mean().item(),
        "mean_similarity_of_chosen": reached.mean().item(),
        "mean_similarity_of_all": exact.mean().item(),
        "mean_similarity_own": own.mean().item(),
    }


if __name__ == "__main__":
    main()
