import dataclasses
import inspect

import pytest

from lavis_mafa.core.settings import PRESETS, MafaSettings


def test_defaults_are_the_preset_mafa():
    assert MafaSettings.from_dict({}) == MafaSettings() == MafaSettings.from_dict({"preset": "mafa"})


def test_preset_mafa_plus_is_mafa_without_s_itc():
    plus = MafaSettings.from_dict({"preset": "mafa+"})
    assert plus == dataclasses.replace(MafaSettings(), alpha=0.0)
    assert plus.smoothing_at(5) == 0.0


def test_preset_official_differs_in_three_choices():
    official = dataclasses.asdict(MafaSettings.from_dict({"preset": "official"}))
    changed = {key for key, value in dataclasses.asdict(MafaSettings()).items() if official[key] != value}
    assert changed == {"known_positives", "pairs_once", "itc_gather"}


def test_preset_none_is_plain_blip2():
    none = MafaSettings.from_dict({"preset": "none"})
    assert (none.negatives, none.action, none.known_positives, none.pairs_once) == ("multinomial", "keep", False, False)
    assert none.smoothing_at(5) == 0.0
    assert none.label_smoothing == 0.1


def test_explicit_keys_override_the_preset_in_any_order():
    for values in ({"known_positives": True, "preset": "official"}, {"preset": "official", "known_positives": True}):
        settings = MafaSettings.from_dict(values)
        assert settings.known_positives and not settings.pairs_once


def test_from_dict_leaves_its_argument_alone():
    values = {"preset": "none", "low": 0.4}
    MafaSettings.from_dict(values)
    assert values == {"preset": "none", "low": 0.4}


@pytest.mark.parametrize(
    ("key", "closest"), [("negative", "negatives"), ("hihg", "high"), ("known_postives", "known_positives")]
)
def test_unknown_key_names_the_closest(key, closest):
    with pytest.raises(ValueError, match=f"'{key}'.*'{closest}'"):
        MafaSettings.from_dict({key: 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"negatives": "soft"}, "negatives is 'soft'; it must be hardest or multinomial"),
        ({"action": True}, "action is True; it must be connect or drop or keep"),
        ({"preset": "plain"}, r"preset is 'plain'; choose one of mafa, mafa\+, official, none"),
        ({"low": -0.1}, r"low is -0.1; it must be a number in \[0, 1\]"),
        ({"alpha": "half"}, "alpha is 'half'"),
        ({"alpha": True}, "alpha is True"),
        ({"high": float("nan")}, "high is nan"),
        ({"alpha_from_epoch": 1.5}, "alpha_from_epoch is 1.5; it must be a whole number >= 0"),
        ({"alpha_from_epoch": -1}, "alpha_from_epoch is -1"),
        ({"pairs_once": "yes"}, "pairs_once is 'yes'; it must be true or false"),
        ({"verify_spare": 1}, "verify_spare is 1; it must be true or false"),
        ({"low": 0.9}, r"low \(0.9\) is above high \(0.8\)"),
    ],
)
def test_bad_values_are_reported(values, message):
    with pytest.raises(ValueError, match=message):
        MafaSettings.from_dict(values)


def test_equal_bounds_are_allowed():
    assert MafaSettings(low=0.8).low == 0.8


def test_smoothing_starts_at_its_epoch():
    assert [MafaSettings().smoothing_at(epoch) for epoch in range(3)] == [0.0, 0.5, 0.5]
    assert MafaSettings(alpha_from_epoch=0).smoothing_at(0) == 0.5


def test_settings_are_frozen_and_documented():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MafaSettings().low = 0.1
    documentation = inspect.getdoc(MafaSettings)
    assert all(field.name in documentation for field in dataclasses.fields(MafaSettings))
    assert set(PRESETS) == {"mafa", "mafa+", "official", "none"}


@pytest.mark.parametrize(
    ("values", "asks"),
    [({}, True), ({"action": "keep"}, False), ({"rule": "relative"}, False), ({"action": "distil"}, True)],
)
def test_who_asks_a_scorer(values, asks):
    assert MafaSettings(**values).asks_scorer == asks
