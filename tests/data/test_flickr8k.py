"""The real annotations and photographs, where they stand."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.dataset import PairDataset, RetrievalDataset
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.records import RecordTable


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "flickr8k"


def flipped(image):
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return pixels.flip(2) if np.random.rand() < 0.5 else pixels


def load(folder, name):
    table = RecordTable.from_rows(read_annotations(folder / name), "flickr8k")
    return table, ImageFiles(str(folder), table.images)


def test_training_rows_are_gathered_into_records(folder):
    table, open_image = load(folder, "flickr8k_train.json")
    assert (table.n_records, np.diff(table.offsets).max()) == (6000, 5)
    assert table.annotated_id[0].as_py() == "flickr8k_1000268201_693b08cb0e"
    rows = read_annotations(folder / "flickr8k_train.json")
    assert len(RecordTable.from_rows(rows, "flickr8k", one_caption_a_record=True).images) == table.n_captions

    def batch(workers):
        dataset = PairDataset(table, open_image, flipped, str.lower, seed=0, augmented=True)
        dataset.set_epoch(3)
        return next(iter(DataLoader(dataset, batch_size=16, num_workers=workers)))

    alone, helped = batch(0), batch(2)
    assert torch.equal(alone["image"], helped["image"])
    assert alone["image"].shape == (16, 3, 144, 144)
    assert torch.equal(alone["text_row"], helped["text_row"])
    assert alone["text_input"] == [caption.lower() for caption in helped["caption"]]


def test_the_retrieval_split(folder):
    table, open_image = load(folder, "flickr8k_test.json")
    dataset = RetrievalDataset(table, open_image, flipped, str)
    assert (len(dataset), len(dataset.text)) == (1000, table.n_captions)
    assert dataset[999]["image"].shape == (3, 144, 144)
    own, wider = dataset.positives()[1], dataset.positives(same_text=True)[1]
    assert len(wider) > len(own) > 4990


def test_captions_shared_by_images_have_one_id(folder):
    table, _ = load(folder, "captions.json")
    assert table.n_records == 8091
    images_of = {}
    for record, text in zip(table.record_of_caption, table.text_id, strict=True):
        images_of.setdefault(text, set()).add(record)
    shared = sum(len(images) > 1 for images in images_of.values())
    assert shared == 199  # the data's own README counts 199 lower-cased captions under more than one image
