"""Scenes: the language means what it says, the truth is exact, the table is deterministic."""

import hashlib
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lavis_mafa.data.scenes as scenes_package
from lavis_mafa.data.scenes.captions import DETAILS, caption_of, mixture, statement_of
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.data.scenes.grammar import (
    ANY_SHAPE,
    WORDINGS,
    Mention,
    Statement,
    parse,
    say,
    vocabulary,
)
from lavis_mafa.data.scenes.render import render
from lavis_mafa.data.scenes.scene import (
    COLOURS,
    PATTERNS,
    RELATIONS,
    SHAPES,
    SIZES,
    TONES,
    Scene,
    SceneObject,
    random_scene,
    scene_number,
    scene_rng,
)
from lavis_mafa.data.scenes.truth import holds, holds_codes, scene_codes, statement_codes

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = Path(scenes_package.__file__).with_name("vocab.txt")
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(deadline=None, max_examples=60)


def thing(words: str, row: int, column: int) -> SceneObject:
    size, colour, shape = words.split()
    return SceneObject(SHAPES.index(shape), COLOURS.index(colour), SIZES.index(size), row, column)


# Red circle top left, small blue square in the centre, big red star bottom left; dark stripes.
SCENE = Scene(
    (thing("big red circle", 0, 0), thing("small blue square", 1, 1), thing("big red star", 2, 0)),
    TONES.index("dark"),
    PATTERNS.index("striped"),
)


@pytest.mark.parametrize(
    "caption, true",
    [
        ("a red circle", True),
        ("a blue circle", False),
        ("a large disk that is red", True),
        ("a disk that is large and red", True),
        ("a tiny box in blue", True),
        ("a red object and a red thing", True),  # circle and star: distinct objects
        ("a red circle and a red disk", False),  # one circle cannot be both
        ("a red object, a big shape and a red thing", False),  # three mentions, only two are red or big
        ("a red circle left of a blue box", True),
        ("a blue box left of a red circle", False),
        ("a blue box with a red circle to its left", True),
        ("a red circle left of a red star", False),  # the same column
        ("a red star under a big red disk", True),
        ("a red object above a red object", True),
        ("a small object above a big circle", False),
        ("a red circle in the top left corner", True),
        ("a red circle at the top", True),
        ("a red star at the top", False),
        ("a red thing on the left side and a square in the middle", True),
        ("three objects, one is a red star", True),
        ("two objects, one is a red star", False),
        ("only a red circle", False),
        ("a red circle against a dark backdrop", True),
        ("on a striped background, a red circle", True),
        ("a picture of a red circle on a pale striped background", False),
        ("We see a red circle , a blue box.", True),
    ],
)
def test_hand_made_captions_hold_or_not(caption, true):
    assert holds(SCENE, caption) is true
    codes = holds_codes(scene_codes([SCENE]), statement_codes([parse(caption)]), np.array([0]), np.array([0]))
    assert codes.tolist() == [true]


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a dog",
        "a red circle left",
        "a red circle in blue",  # says its colour twice
        "a red circle at the top left of a blue square",  # at the top left, or left of?
        "a red circle on a background",
        "four objects, one is a star",
        "a red circle B",
    ],
)
def test_other_text_is_refused(caption):
    with pytest.raises(ValueError, match=r"not a caption|repeats itself"):
        parse(caption)


def unordered(statement: Statement) -> tuple[object, ...]:
    mentions = statement.mentions if statement.relation is not None else tuple(sorted(statement.mentions, key=str))
    return mentions, statement.relation, statement.count, statement.tone, statement.pattern


def optional(n: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(0, n - 1)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    mentions, relation, count = draw(st.sampled_from(sorted(WORDINGS, key=str)))
    place = st.none() if relation is not None else optional(3)
    each = st.builds(Mention, optional(len(SHAPES)), optional(len(COLOURS)), optional(len(SIZES)), place, place)
    statement = tuple(draw(each) for _ in range(mentions))
    return Statement(statement, relation, count, draw(optional(len(TONES))), draw(optional(len(PATTERNS))))


@settings(deadline=None, max_examples=400)
@given(statements(), SEEDS)
def test_every_statement_is_read_back(statement, seed):
    assert unordered(parse(say(statement, np.random.default_rng(seed)))) == unordered(statement)


@FEW
@given(SEEDS, st.sampled_from(DETAILS))
def test_captions_of_a_scene_are_true_and_speak_the_vocabulary(seed, detail):
    vocab = VOCAB.read_text().split("\n")
    for index in range(5):
        caption = caption_of(scene_number(seed, index), scene_rng(seed, index, 2), detail)
        assert holds(scene_number(seed, index), caption)
        tokens = re.findall(r"\w+|[^\w\s]", caption)
        assert set(tokens) <= set(vocab)
        assert len(tokens) + 2 <= 32  # with [CLS] and [SEP]: the text length of LAVIS' BLIP-2


def test_vocabulary_file_is_the_grammar():
    assert VOCAB.read_text().splitlines() == SPECIALS + vocabulary()
    assert len(vocabulary()) < 300 and set(ANY_SHAPE) < set(vocabulary())


def test_paraphrases_are_many():
    statement = Statement((Mention(0, 0, 1), Mention(1, 5)), relation=0, tone=0)
    assert len({say(statement, np.random.default_rng(seed)) for seed in range(300)}) > 100


def test_unknown_wordings_are_refused():
    with pytest.raises(ValueError, match="no wording"):
        say(Statement((Mention(0),), relation=0), np.random.default_rng(0))
    with pytest.raises(ValueError, match="glance"):
        statement_of(SCENE, np.random.default_rng(0), "novel")


@FEW
@given(SEEDS)
def test_codes_equal_the_definition(seed):
    scenes = [scene_number(seed, index) for index in range(12)]
    captions = [caption_of(scenes[i], scene_rng(seed, i, 2), DETAILS[i % 3]) for i in range(12)]
    codes = scene_codes(scenes), statement_codes([parse(caption) for caption in captions])
    block = holds_codes(*codes, np.arange(12)[:, None], np.arange(12)[None])
    assert block.tolist() == [[holds(scene, caption) for caption in captions] for scene in scenes]
    assert block.diagonal().all()


@settings(deadline=None, max_examples=200)
@given(statements(), SEEDS)
def test_codes_equal_the_definition_for_any_statement(statement, seed):
    rng = np.random.default_rng(seed)
    scenes, caption = [random_scene(rng) for _ in range(60)], say(statement, rng)
    block = holds_codes(scene_codes(scenes), statement_codes([statement]), np.arange(60), np.zeros(60, int))
    assert block.tolist() == [holds(scene, caption) for scene in scenes]


@pytest.mark.parametrize("share", [0.0005, 0.002, 0.01])
def test_random_pairs_match_as_often_as_set(share):
    table, _, truth = scenes_table(1500, seed=21, match_share=share, captions_a_scene=3)
    matches = truth(np.arange(1500)[:, None], np.arange(table.n_captions)[None])  # 6.7 million pairs
    other = np.arange(1500)[:, None] != table.record_of_caption[None]
    assert matches[~other].all()
    # 4,500 captions whose own shares vary from 0 to 1/4: the mean of their shares is known to some 6 %.
    assert matches[other].mean() == pytest.approx(share, rel=0.2)


def test_shares_out_of_reach_are_refused():
    assert sum(mixture(0.002)) == pytest.approx(1)
    for share in (0.0, 0.00001, 0.5):
        with pytest.raises(ValueError, match="cannot be reached"):
            mixture(share)


def test_noise_is_the_share_of_wrong_captions():
    table, _, truth = scenes_table(1000, seed=4, noise=0.3)
    wrong = 1 - truth(table.record_of_caption, np.arange(table.n_captions)).mean()
    assert wrong == pytest.approx(0.3, abs=0.04)


def test_a_record_has_distinct_captions_and_its_own_key():
    table, open_image, _ = scenes_table(200, seed=6, match_share=0.05, captions_a_scene=5)
    assert np.diff(table.offsets).tolist() == [5] * 200
    assert all(len({table.caption(row) for row in table.caption_rows(i)}) == 5 for i in range(200))
    assert len(set(table.image_id.tolist())) == 200 and table.image(7) == "scene/6/7"
    assert open_image(7).size == (48, 48) and open_image(7).mode == "RGB"


PINNED = [
    "a cross in orange and a blue circle",
    "an orange hoop, a cross in orange",
    "on a dark plain backdrop, a little red triangle and a big violet star and a star that is big and yellow",
    "a picture of a large yellow star on the right and a large purple star in the middle right "
    "on a dark plain backdrop",
    "an image of a large purple plus at the top, a little turquoise cross on the left side",
    "a cyan plus",
]
FINGERPRINT = """
import hashlib
from lavis_mafa.data.scenes.dataset import scenes_table
table, open_image, _ = scenes_table(50, seed=9)
pixels = hashlib.sha256(b"".join(open_image(i).tobytes() for i in range(50)))
print(table.fingerprint, pixels.hexdigest())
"""


def test_another_process_sees_the_same_scenes():
    table, open_image, truth = pickle.loads(pickle.dumps(scenes_table(50, seed=9)))
    pixels = hashlib.sha256(b"".join(open_image(i).tobytes() for i in range(50)))
    other = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert other.stdout.split() == [table.fingerprint, pixels.hexdigest()]
    assert truth(table.record_of_caption, np.arange(table.n_captions)).all()


def test_the_list_of_scenes_is_pinned():
    """A change here changes every published figure: the stream of scenes and captions is part of the format."""
    table, _, _ = scenes_table(3, seed=1)
    assert table.captions.to_pylist() == PINNED


def test_seeds_are_different_lists():
    one, other = (scenes_table(100, seed=seed)[0] for seed in (1, 2))
    assert one.captions != other.captions and not set(one.image_id) & set(other.image_id)
    assert [scene_number(1, i) for i in range(50)] != [scene_number(2, i) for i in range(50)]


def test_settings_out_of_range_are_refused():
    for setting in ({"n": 0}, {"seed": -1}, {"captions_a_scene": 0}, {"noise": 1.5}):
        with pytest.raises(ValueError, match="scenes need"):
            scenes_table(**{"n": 3, "seed": 0, **setting})


@FEW
@given(SEEDS)
def test_scenes_are_well_formed_and_one_relation_always_holds(seed):
    scene = scene_number(seed, 0)
    cells = [(one.row, one.column) for one in scene.objects]
    assert 1 <= len(cells) <= 3 and len(set(cells)) == len(cells)
    for one in scene.objects:
        for other in scene.objects:
            related = [a.stands(r, b) for r in RELATIONS for a, b in ((one, other), (other, one))]
            assert any(related) == (one is not other)


def test_an_image_shows_its_scene():
    """The centre of a lone big circle has its colour, the far corner its background's tone."""
    for tone in range(len(TONES)):
        for colour, rgb in ((COLOURS.index("red"), (222, 40, 40)), (COLOURS.index("blue"), (42, 84, 222))):
            scene = Scene((SceneObject(0, colour, 1, 0, 2),), tone, 0)
            pixels = np.asarray(render(scene, np.random.default_rng(colour)), dtype=int)
            assert np.abs(pixels[8, 40] - rgb).max() < 40
            assert (pixels[40, 8].mean() > 128) == (TONES[tone] == "light")


def test_rendering_scales():
    assert render(SCENE, np.random.default_rng(0), size=96).size == (96, 96)
