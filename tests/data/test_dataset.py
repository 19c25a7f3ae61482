import random
import re

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lavis_mafa.core.pairs import known_positives
from lavis_mafa.data.dataset import PairDataset, RetrievalDataset, seeded
from lavis_mafa.data.identity import text_id
from lavis_mafa.data.images import BadImageError
from lavis_mafa.data.records import RecordTable

CAPTIONS = [["one dog", "ein Hund", "犬"], ["A cat"], ["one dog", "two dogs"], ["a cat", "cats"], ["x"]]
BROKEN = 3


@pytest.fixture
def table():
    rows = pa.table({"image": [f"{n}.png" for n in range(len(CAPTIONS))], "caption": CAPTIONS})
    return RecordTable.from_rows(rows, "toy")


def open_image(record):
    return Image.new("RGB", (2, 2), (record, record, record))


def open_some(record):
    if record == BROKEN:
        raise BadImageError(f"image {record} is broken")
    return open_image(record)


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def noisy(image):
    """Draws from all three global generators, as real augmentations do."""
    return to_tensor(image) + random.random() + 10 * np.random.rand() + 100 * torch.rand(1)


def pairs_of(table, seed=0, augmented=True, opens=open_image, **options):
    return PairDataset(table, opens, noisy if augmented else to_tensor, str.upper, seed, augmented, **options)


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        for key in one
    )


def batches(dataset, workers, epochs=2, **options):
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, **options)
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        yield from loader


def test_a_sample_is_the_contract(table):
    dataset = pairs_of(table, augmented=False)
    sample = dataset[1]
    assert torch.equal(sample.pop("image"), torch.ones(3, 2, 2))
    assert sample == {
        "text_input": "A CAT",
        "caption": "A cat",
        "index": 1,
        "image_id": int(table.image_id[1]),
        "text_id": int(table.text_id[3]),
        "text_row": 3,
    }
    batch = next(iter(DataLoader(dataset, batch_size=5)))
    assert batch["image_id"].dtype == batch["text_id"].dtype == batch["text_row"].dtype == torch.int64
    assert batch["text_id"].tolist() == table.text_id[batch["text_row"]].tolist()
    assert batch["caption"] == [table.caption(row) for row in batch["text_row"].tolist()]
    assert len(dataset) == 5
    with pytest.raises(IndexError):
        dataset[5]


def test_in_c_epochs_each_of_c_captions_is_drawn_once(table):
    dataset = pairs_of(table)
    orders = set()
    for cycle in range(20):
        rows = []
        for epoch in range(3 * cycle, 3 * cycle + 3):
            dataset.set_epoch(epoch)
            rows.append(dataset.text_row(0))
        assert sorted(rows) == [0, 1, 2]
        orders.add(tuple(rows))
    assert len(orders) == 6  # every order turns up in 20 cycles


def test_seed_epoch_and_index_decide_alone(table):
    one, other = pairs_of(table, seed=1), pairs_of(table, seed=1)
    other[3]
    assert same(one[2], other[2])
    changed = pairs_of(table, seed=2)
    assert not torch.equal(one[2]["image"], changed[2]["image"])
    noise_of_two, noise_of_one = one[2]["image"] - 2, one[1]["image"] - 1
    assert not torch.equal(noise_of_two, noise_of_one)
    before = one[2]["image"]
    one.set_epoch(1)
    assert not torch.equal(one[2]["image"], before)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_make_no_difference(table, persistent):
    alone = list(batches(pairs_of(table), workers=0))
    helped = list(batches(pairs_of(table), workers=2, persistent_workers=persistent))
    assert len(alone) == 6
    assert all(same(*pair) for pair in zip(alone, helped, strict=True))
    assert not torch.equal(alone[0]["image"], alone[3]["image"])


def test_the_training_step_does_not_notice(table):
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def restart():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    restart()
    wanted = draws()
    restart()
    pairs_of(table)[0]
    with pytest.raises(RuntimeError), seeded(1):
        raise RuntimeError
    assert draws() == wanted


def test_cached_tokens_stand_for_the_image(table):
    tokens = np.arange(5 * 2 * 3, dtype=np.float16).reshape(5, 2, 3)
    dataset = pairs_of(table, augmented=False, opens=None)  # nothing to open: a call would fail
    dataset.tokens = tokens
    sample = dataset[2]
    assert "image" not in sample
    assert sample["image_tokens"].dtype == torch.float32
    assert sample["image_tokens"].tolist() == tokens[2].tolist()
    with pytest.raises(ValueError, match="without augmentation"):
        pairs_of(table).tokens = tokens
    with pytest.raises(ValueError, match="do not match 5 records"):
        dataset.tokens = tokens[:4]


def test_a_scorer_may_ask_for_its_own_view(table):
    dataset = pairs_of(table)
    plain = dataset[4]
    dataset.judge_view = lambda image: to_tensor(image) / 4
    sample = dataset[4]
    assert torch.equal(sample.pop("judge_image"), torch.ones(3, 2, 2))
    assert same(sample, plain)


def test_a_bad_image_is_raised(table):
    with pytest.raises(ValueError, match="image 3 is broken"):
        pairs_of(table, opens=open_some)[BROKEN]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_replaced_and_named(table, workers):
    dataset = pairs_of(table, opens=open_some, on_bad_image="replace")
    got = list(batches(dataset, workers, epochs=1))
    assert [len(batch["index"]) for batch in got] == [2, 2, 1]
    index = torch.cat([batch["index"] for batch in got]).tolist()
    assert index[:3] + index[4:] == [0, 1, 2, 4]
    assert index[3] != BROKEN
    assert same(dataset[BROKEN], dataset[index[3]])  # a whole sample of the other record, ids included
    assert dataset.bad_records == [BROKEN]


def test_other_errors_are_never_replaced(table):
    def outside(record):
        raise ValueError("leads out of the root")

    with pytest.raises(ValueError, match="leads out"):
        pairs_of(table, opens=outside, on_bad_image="replace")[0]


def test_when_nothing_can_be_read_it_says_so(table):
    def nothing(record):
        raise BadImageError("gone")

    with pytest.raises(ValueError, match="neither image '0.png' nor any of 16 others"):
        pairs_of(table, opens=nothing, on_bad_image="replace")[0]


def test_wrong_settings_name_what_is_allowed(table):
    with pytest.raises(ValueError, match="raise or replace, not 'skip'"):
        pairs_of(table, on_bad_image="skip")
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        pairs_of(table, seed=-1)


def test_retrieval_attributes_are_those_of_lavis(table):
    dataset = RetrievalDataset(table, open_image, to_tensor, str.upper)
    assert dataset.text[:4] == ["ONE DOG", "EIN HUND", "犬", "A CAT"]
    assert dataset.captions[3] == "A cat"
    assert dataset.image == [f"{n}.png" for n in range(5)]
    assert dataset.img2txt == {0: [0, 1, 2], 1: [3], 2: [4, 5], 3: [6, 7], 4: [8]}
    assert dataset.txt2img == {row: image for image, rows in dataset.img2txt.items() for row in rows}
    item = dataset[3]
    assert (item["index"], item["image_id"]) == (3, int(table.image_id[3]))
    assert torch.equal(item["image"], torch.full((3, 2, 2), 3.0))
    dataset.tokens = np.ones((5, 2, 3), np.float16)
    assert "image" not in dataset[3]
    with pytest.raises(IndexError):
        dataset[-1]


def test_positives_by_image_and_by_text(table):
    dataset = RetrievalDataset(table, open_image, to_tensor, str)

    def positives(**options):
        offsets, rows = dataset.positives(**options)
        return [part.tolist() for part in np.split(rows, offsets[1:-1])]

    assert positives() == [[0, 1, 2], [3], [4, 5], [6, 7], [8]]
    # Images 0 and 2 share "one dog" (rows 0 and 4), images 1 and 3 "a cat" but for the case (rows 3 and 6).
    assert positives(same_text=True) == [[0, 1, 2, 4], [3, 6], [0, 4, 5], [3, 6, 7], [8]]


def test_retrieval_wants_one_record_an_image():
    rows = pa.table({"image": ["a", "a"], "caption": [["1"], ["2"]]})
    with pytest.raises(ValueError, match="gather its rows"):
        RetrievalDataset(RecordTable.from_rows(rows, "toy", one_caption_a_record=True), open_image, to_tensor, str)


def without_marks(caption: str) -> str:
    return re.sub(r"[.!]", " ", caption.lower()).strip()


def test_captions_that_the_processor_makes_equal_are_one_text():
    rows = pa.table({"image": ["a", "b", "c"], "caption": [["A dog.", "a cat"], ["a dog!"], ["a dog?"]]})
    table = RecordTable.from_rows(rows, "toy")
    assert len(set(table.text_id.tolist())) == 4
    pairs = PairDataset(table, open_image, to_tensor, without_marks, seed=0, augmented=False)
    known = known_positives(*(torch.tensor([pairs[i][name] for i in range(3)]) for name in ("image_id", "text_id")))
    assert pairs[0]["text_input"] == "a cat" or known[0].tolist() == [True, True, False]
    ids = pairs.table.text_id.tolist()
    assert ids[0] == ids[2] != ids[3] and ids[0] == text_id("a dog") == pairs.table.text_id_of("A  DOG!")
    assert pairs.table.captions.to_pylist() == ["A dog.", "a cat", "a dog!", "a dog?"]  # as they stand in the file
    assert pairs.table.fingerprint == table.fingerprint
    held_out = RetrievalDataset(table, open_image, to_tensor, without_marks)
    offsets, positives = held_out.positives(same_text=True)
    assert np.split(positives, offsets[1:-1])[1].tolist() == [0, 2]
