"""Memory and time of retrieval's figures on a large gallery: synthetic embeddings of one query an image, no re-ranking.

    python projects/benchmarks/gallery.py --images 100000 --dim 256 --json projects/benchmarks/gallery.json

Each caption is its image's point with noise. All pairs at once would be a matrix of 40 GB.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import about

from lavis_mafa.evaluation.relevance import Relevance, figures
from lavis_mafa.evaluation.retrieval import Gallery
from lavis_mafa.reports.table import write_json


@dataclass
class OneCaptionEach:
    """What Relevance asks of a data set: caption n belongs to image n."""

    text: range
    truth: None = None

    @property
    def txt2img(self) -> range:
        return self.text

    def __len__(self) -> int:
        return len(self.text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--noise", type=float, default=4.0, help="length of the noise; a point has length 1")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    before = _peak_gib()
    generator = torch.Generator().manual_seed(0)
    image_ND = F.normalize(torch.randn(given.images, given.dim, generator=generator), dim=1)
    noise_ND = F.normalize(torch.randn(given.images, given.dim, generator=generator), dim=1)
    text_ND = F.normalize(image_ND + given.noise * noise_ND, dim=1)
    gallery = Gallery(torch.empty(0), range(given.images), image_ND[:, None], text_ND, None)
    began = time.perf_counter()
    recalls, _ = figures(gallery.of_images, gallery.of_texts, Relevance(OneCaptionEach(range(given.images))))
    found = {
        "images": given.images,
        "captions": given.images,
        "dim": given.dim,
        "seconds": time.perf_counter() - began,
        "peak_gib": _peak_gib(),
        "peak_gib_before": before,
        "recalls": recalls["annotation"],
        **about(),
    }
    print(found)
    if given.json:
        write_json(given.json, found)


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
