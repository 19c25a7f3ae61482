"""Packs a trained Con-D of the scenes into the package (fp16 safetensors), and says how good it is on unseen scenes.

python projects/scenes/train_con_d.py --out output/mafa/con_d_scenes/matching.safetensors
python projects/scenes/export_con_d.py output/mafa/con_d_scenes/matching.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import lavis_mafa
from lavis_mafa.core.metrics import average_precision, roc_auc

ASSET = Path(lavis_mafa.__file__).parent / "assets" / "scenes_con_d.safetensors"
SEED, SCENES, NEAREST = 41, 500, 10


def export(checkpoint: str) -> None:
    from lavis_mafa.models.weights import read_state_dict

    state = {
        key: value.half().contiguous().clone()
        for key, value in read_state_dict(checkpoint).items()
        if "position_ids" not in key
    }
    save_file(state, ASSET, metadata={"of": "Con-D of the scenes, see projects/scenes"})
    print(f"{ASSET.name}: {ASSET.stat().st_size / 1e6:.2f} MB")


def quality() -> dict[str, float]:
    """Precision and recall of P > 0.8 over the captions nearest to every image (ITC, own ones left out)."""
    from lavis.processors import load_processor

    from lavis_mafa.data.dataset import RetrievalDataset
    from lavis_mafa.data.scenes.dataset import scenes_table
    from lavis_mafa.evaluation.relevance import annotated, truth_mask
    from lavis_mafa.evaluation.retrieval import encode_gallery, match_scores
    from lavis_mafa.models.albef.pretrain import MafaAlbef

    torch.manual_seed(0)
    model = MafaAlbef.from_pretrained("scenes_con_d").float().eval()
    eval_view = OmegaConf.load(MafaAlbef.default_config_path("scenes_con_d")).preprocess.vis_processor.eval
    table, open_image, truth = scenes_table(SCENES, SEED)
    data = RetrievalDataset(
        table, open_image, load_processor("blip_image_eval", eval_view), load_processor("blip_caption")
    )
    data.truth = truth
    device = torch.device("cpu")
    gallery = encode_gallery(model, data, 64, 0, device)
    sim_NC = np.where(annotated(data), -np.inf, gallery.similarity().numpy())
    text_P = np.argsort(-sim_NC, axis=1)[:, :NEAREST].ravel()
    image_P = np.repeat(np.arange(len(data)), NEAREST)
    logits = torch.from_numpy(match_scores(model, gallery, image_P, text_P, device))
    p_P, true_P = logits.softmax(1)[:, 1].numpy(), truth_mask(data)[image_P, text_P]
    connected_P = p_P > 0.8
    return {
        "pairs": len(p_P),
        "true": int(true_P.sum()),
        "precision": float(true_P[connected_P].mean()),
        "recall": float(connected_P[true_P].mean()),
        "auc": roc_auc(true_P, p_P),
        "ap": average_precision(true_P, p_P),
        "own_above_high": _own(model, gallery, data, device),
    }


def _own(model: object, gallery: object, data: object, device: torch.device) -> float:
    """Share of annotated pairs with P > 0.8: what a good network says of pairs that do match."""
    from lavis_mafa.evaluation.retrieval import match_scores

    text_P = np.arange(len(data.text))
    image_P = np.array([data.txt2img[text] for text in text_P])
    return float(
        (torch.from_numpy(match_scores(model, gallery, image_P, text_P, device)).softmax(1)[:, 1] > 0.8).float().mean()
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    lavis_mafa.register()
    export(parser.parse_args().checkpoint)
    print(json.dumps(quality(), indent=2))
