"""WebDataset shards: ids travel with the samples, and a buffer is cut into batches of look-alikes."""

import gzip
import io
import logging
import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from lavis_mafa.data.identity import image_id, text_id
from lavis_mafa.openclip import OpenClipEncoder
from lavis_mafa.openclip_train import launcher as train
from lavis_mafa.openclip_train.batches import parts
from lavis_mafa.openclip_train.shard_decode import decoded
from lavis_mafa.openclip_train.shard_feed import ShardFeed

from . import launch
from .launch import BATCH
from .tiny import register_tiny

wds = pytest.importorskip("webdataset")
PAIRS, NEAR = 24, 3


@pytest.fixture(autouse=True)
def quiet_logging():
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers = before


def caption(number):
    return f"a picture of number {number // 2}"  # captions come in pairs


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    register_tiny(folder, "tiny-train")
    rng = np.random.default_rng(0)
    for shard in range(2):
        with wds.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for number in range(shard * PAIRS // 2, (shard + 1) * PAIRS // 2):
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "png")
                writer.write({"__key__": f"{number:04d}", "png": file.getvalue(), "txt": caption(number)})
    return folder


def image_ids(shards):
    return [image_id("webdataset", f"{shards.name}:{2 * n // PAIRS}.tar:{n:04d}") for n in range(PAIRS)]


def arguments(shards, logs, *more):
    kind = ["--train-num-samples", PAIRS, *more]
    return launch.arguments(shards / "{0..1}.tar", logs, *kind, kind="webdataset")


def test_every_pair_comes_with_its_ids_in_every_epoch(monkeypatch, shards, tmp_path):
    calls = launch.run(monkeypatch, arguments(shards, tmp_path, "--mafa-search-space", PAIRS))
    of_image = {one: text_id(caption(n)) for n, one in enumerate(image_ids(shards))}
    assert len(calls) == 3 * PAIRS // BATCH
    for epoch in range(3):
        met = [call for call in calls if call["epoch"] == epoch]
        images, texts = (torch.cat([call[name] for call in met]).tolist() for name in ("image_id", "text_id"))
        assert dict(zip(images, texts, strict=True)) == of_image
        assert met[0]["alpha"] == (0.5 if epoch else 0.0)
    assert all(call["contrastive_loss"].isfinite() for call in calls)


def test_images_of_shards_are_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "jpeg", exif=exif)
    turned = decoded({"__url__": "a.tar", "__key__": "0", "txt": b"a red page", "jpg": file.getvalue()})
    assert turned["jpg"].size == (4, 8)


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, left):
        self.left = left

    def __reduce__(self):
        return Path.touch, (self.left,)


@pytest.mark.parametrize("place", ["train", "val"])
@pytest.mark.parametrize("suffix", ["pyd", "pkl", "pickle", "pth", "npz", "jpg.pkl", "pkl.gz"])
def test_nothing_of_a_shard_is_run(monkeypatch, shards, tmp_path, place, suffix):
    left = tmp_path / "left"
    code = pickle.dumps(Payload(left))
    pickle.loads(code)
    left.unlink()  # so the payload works
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    with wds.TarWriter(str(tmp_path / "evil.tar")) as writer:
        for number in range(2 * BATCH):
            pair = {"png": file.getvalue(), "txt": "a picture"}
            with monkeypatch.context() as raw:
                raw.setattr(writer, "encoder", lambda sample: sample)
                packed = gzip.compress(code) if suffix.endswith("gz") else code
                writer.write({"__key__": f"{number}", **pair, "txt": b"a picture", suffix: packed})
    data = [tmp_path / "evil.tar", tmp_path, "--train-num-samples", 2 * BATCH, "--epochs", 1]
    if place == "val":
        data = [shards / "{0..1}.tar", tmp_path, "--train-num-samples", PAIRS, "--epochs", 1]
        data += ["--val-data", tmp_path / "evil.tar", "--val-num-samples", 2 * BATCH]
    calls = launch.run(monkeypatch, launch.arguments(*data, kind="webdataset"))
    assert len(calls) == (2 if place == "train" else PAIRS // BATCH)
    assert not left.exists()


def test_a_shard_does_not_choose_what_its_images_are_called(caplog):
    forged = {"__url__": b"other.tar", "__key__": "0", "txt": b"a page", "jpg": b""}
    with pytest.raises(ValueError, match=r"file 0\.__url__"):
        decoded(forged)


def tar_of(folder, names):
    with tarfile.open(folder / "odd-000.tar", "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return folder / "odd-000.tar"


ODD = {
    "dots": ["IMG.05.01.jpg", "IMG.05.01.txt"],
    "no texts": ["00.jpg", "01.jpg"],
    "no images": ["00.txt", "00.json"],
    "captions by another name": ["00.jpg", "00.caption"],
    "empty": [],
}


@pytest.mark.parametrize("place", ["train", "val"])
@pytest.mark.parametrize("kind", ODD)
def test_shards_without_a_pair_are_refused_by_what_they_hold(shards, tmp_path, kind, place):
    odd = tar_of(tmp_path, ODD[kind])
    data = launch.arguments(odd, tmp_path, "--train-num-samples", PAIRS, kind="webdataset")
    if place == "val":
        data = arguments(shards, tmp_path, "--val-data", odd, "--val-num-samples", 4)
    with pytest.raises(ValueError, match=r"no pair of image and text.*odd-000\.tar holds .*looked for was") as error:
        train.main(data)
    assert all(f".{name.split('.')[-1]}" in str(error.value) for name in ODD[kind])


@pytest.mark.parametrize(("name", "content"), [("torn.tar", b"no tar"), ("gone.tar", None)])
def test_a_shard_that_cannot_be_read_is_named(shards, tmp_path, name, content):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"shard .*{name}"):
        train.main(launch.arguments(tmp_path / name, tmp_path, "--train-num-samples", PAIRS, kind="webdataset"))


def test_an_epoch_without_a_batch_is_an_error():
    few = feed([1, 2, 3, 4], by_tens)
    few.info.dataloader = []
    few.set_value(0)
    with pytest.raises(ValueError, match="epoch 0 has no batch"):
        list(few)


def test_accumulation_masks_over_the_whole_accumulated_batch(monkeypatch, shards, tmp_path):
    calls = launch.run(monkeypatch, arguments(shards, tmp_path, "--accum-freq", 2, "--epochs", 2))
    assert [call["n"] for call in calls] == [2 * BATCH] * (2 * PAIRS // BATCH)
    for first, second in zip(calls[::2], calls[1::2], strict=True):
        assert first["image_id"].equal(second["image_id"])
        assert len(first["image_id"].unique()) == 2 * BATCH


def test_a_run_of_shards_resumes(monkeypatch, shards, tmp_path):
    launch.run(monkeypatch, arguments(shards, tmp_path, "--epochs", 1))
    monkeypatch.undo()
    rest = launch.run(monkeypatch, arguments(shards, tmp_path, "--epochs", 2, "--resume", "latest"))
    assert {call["epoch"] for call in rest} == {1}


class Loader:
    """Batches (images, texts, ids) of pairs whose image and text say their number."""

    def __init__(self, numbers):
        self.numbers, self.num_samples, self.num_batches = numbers, len(numbers), len(numbers) // BATCH

    def __iter__(self):
        for part in torch.tensor(self.numbers).split(BATCH):
            yield part[:, None].float(), part[:, None], torch.stack([part, part], dim=1)


def feed(numbers, encode, **settings):
    info = SimpleNamespace(dataloader=Loader(numbers), set_epoch=lambda epoch: None)
    return ShardFeed(info, encode, **{"buffer": 100, "seed": 0, "rank": 0, "siblings": "apart"} | settings)


def by_tens(images, texts):
    """Pairs look alike that share their tens."""
    features = torch.eye(10)[(texts[:, 0] // 10) % 10]
    return features, features


@pytest.mark.parametrize(("epoch", "alike"), [(0, False), (1, True)])
def test_a_buffer_is_cut_into_batches_of_look_alikes(epoch, alike):
    numbers = [10 * (n % 3) + n // 3 for n in range(12)]  # 0, 10, 20, 1, 11, 21, …
    found = feed(numbers, by_tens)
    found.set_value(epoch)
    batches = []
    for images, texts in map(parts, found):
        assert found.ids(BATCH)[:, 0].tolist() == texts[:, 0].tolist() == images[:, 0].tolist()
        batches.append(texts[:, 0].tolist())
    assert sorted(n for batch in batches for n in batch) == sorted(numbers)
    assert all(len({n // 10 for n in batch}) == 1 for batch in batches) == alike
    assert found.num_batches == len(batches)


def test_a_buffer_of_its_own_size_is_grouped_alone():
    numbers = [10 * (n % 2) + n // 2 for n in range(16)]
    found = feed(numbers, by_tens, buffer=2)
    found.set_value(1)
    halves = [set(texts[:, 0].tolist()) for _, texts in map(parts, found)]
    assert halves[0] | halves[1] == set(numbers[:8])
    assert all(len({n // 10 for n in half}) == 1 for half in halves)


class BySight:
    """P(match) is high where the caption's number is near the image's, known by the mean of its pixels as stored."""

    fingerprint = "by sight"

    def __init__(self, files):
        self.number_of = {self.view(image).item(): number for number, image in files.items()}

    def view(self, image):
        return torch.tensor(np.asarray(image.convert("RGB")).mean()).reshape(1, 1, 1)

    def score(self, batch, image_K, text_K):
        number_K = [self.number_of[mean] for mean in batch["judge_image"][image_K].flatten().tolist()]
        named_K = [int(batch["caption"][text].split()[-1]) for text in text_K.tolist()]
        near = [abs(number // 2 - named) <= NEAR for number, named in zip(number_K, named_K, strict=True)]
        return torch.where(torch.tensor(near), 0.9, 0.1)


def images(shards):
    """{number: the image as its shard has it}"""
    found = {}
    for shard in range(2):
        with tarfile.open(shards / f"{shard}.tar") as tar:
            for name in (name for name in tar.getnames() if name.endswith("png")):
                found[int(name[:4])] = Image.open(io.BytesIO(tar.extractfile(name).read())).convert("RGB")
    return found


def numbers_of(ids, shards):
    """The number of each image_id of the shards."""
    every = {one: n for n, one in enumerate(image_ids(shards))}
    return [every[one] for one in ids.tolist()]


@pytest.mark.parametrize("more", [[], ["--accum-freq", 2]])
def test_con_d_judges_pairs_of_shards_by_what_is_stored(monkeypatch, shards, tmp_path, more):
    scorer = BySight(images(shards))
    monkeypatch.setattr(train, "_con_d", lambda *_: scorer)
    con_d = ["--mafa-con-d", "arch=any", "--mafa-search-space", PAIRS]
    calls = launch.run(monkeypatch, arguments(shards, tmp_path, *con_d, *more))
    found = 0
    for call in calls:
        numbers = numbers_of(call["image_id"], shards)
        for _, anchor, partner in call["pairs"].connected_2BB.nonzero().tolist():
            assert abs(numbers[anchor] // 2 - numbers[partner] // 2) <= NEAR
            found += 1
    assert found
    if more:  # the two calls of a step get the same verdicts
        assert all(one["pairs"] is two["pairs"] for one, two in zip(calls[::2], calls[1::2], strict=True))


def test_a_bi_encoder_sees_the_pairs_of_shards_unaugmented(monkeypatch, shards, tmp_path):
    torch.manual_seed(3)
    torch.save(open_clip.create_model("tiny-train").state_dict(), tmp_path / "judge.pt")
    judge = ["--mafa-bi-encoder", "tiny-train", "--mafa-bi-encoder-pretrained", tmp_path / "judge.pt"]
    calls = launch.run(monkeypatch, arguments(shards, tmp_path, *judge, "--mafa-search-space", PAIRS))
    net, _, preprocess = open_clip.create_model_and_transforms("tiny-train", str(tmp_path / "judge.pt"))
    encode, files = OpenClipEncoder(net), images(shards)
    for call in calls:
        numbers = numbers_of(call["image_id"], shards)
        expected = encode(
            torch.stack([preprocess(files[n]) for n in numbers]),
            open_clip.get_tokenizer("tiny-train")([caption(n) for n in numbers]),
        )
        for name, feature in expected.items():
            torch.testing.assert_close(call[name], feature, atol=1e-5, rtol=1e-4)
    assert {call["epoch"] for call in calls} == {0, 1, 2}
