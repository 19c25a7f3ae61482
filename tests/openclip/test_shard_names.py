"""Names of shards in the ids of their images."""

import braceexpand
import pytest

from lavis_mafa.openclip_train.shard_names import shard_names


def names(patterns):
    return shard_names(patterns, lambda pattern: list(braceexpand.braceexpand(pattern)))


def test_equal_shards_of_two_data_sets_differ():
    found = names("/data/cc3m/{00000..00001}.tar::/data/cc12m/{00000..00001}.tar")
    assert found["/data/cc3m/00000.tar"] == "cc3m:00000.tar"
    assert found["/data/cc12m/00000.tar"] == "cc12m:00000.tar"
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("place", ["/data", "/mnt/disk2", "https://host/bucket", "pipe:aws s3 cp s3://bucket"])
def test_names_are_the_same_wherever_the_data_lies(place):
    found = names(place + "/cc3m/{a/0,b/0}.tar::" + place + "/sbu/{0..1}.tar")
    assert list(found.values()) == ["cc3m:a/0.tar", "cc3m:b/0.tar", "sbu:0.tar", "sbu:1.tar"]


def test_a_relative_pattern_is_that_of_its_folder(monkeypatch, tmp_path):
    (tmp_path / "cc3m").mkdir()
    monkeypatch.chdir(tmp_path / "cc3m")
    assert names("{0..1}.tar") == {"0.tar": "cc3m:0.tar", "1.tar": "cc3m:1.tar"}
    assert list(names(f"file:{tmp_path}/cc3m/{{0..1}}.tar").values()) == ["cc3m:0.tar", "cc3m:1.tar"]


def test_roots_of_one_name_take_the_folder_before_it():
    found = names("/x/cc3m/train/{0..1}.tar::/x/cc12m/train/{0..1}.tar::/x/sbu/{0..1}.tar")
    assert list(found.values())[::2] == ["cc3m/train:0.tar", "cc12m/train:0.tar", "sbu:0.tar"]


def test_a_data_set_in_two_patterns_is_one():
    found = names("/x/cc3m/{0..1}.tar::/x/cc3m/{2..3}.tar")
    assert list(found.values()) == [f"cc3m:{n}.tar" for n in range(4)]


def test_a_root_that_ends_another_stays_apart():
    assert len(set(names("/train/{0..1}.tar::/a/train/{0..1}.tar::/b/a/train/{0..1}.tar").values())) == 6
