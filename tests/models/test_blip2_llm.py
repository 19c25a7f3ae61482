"""Stage 2 before tiny random language models: what loads, what is answered, what a published checkpoint must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf

from lavis_mafa.models.blip2.language_model import language_model_folder
from tests.models.tiny import CAPTIONS, lavis_blip2, loud, tiny_blip2
from tests.models.tiny_llm import language_model, stage_2, stage_2_config

QUESTIONS = ["what color is the circle?", "how many objects are there?", "is there a big red star in the center?"]
PROMPT = "Question: {} Answer:"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: language_model(kind, tmp_path_factory.mktemp(kind)) for kind in ("opt", "t5")}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    found = {kind: stage_2(kind, folder) for kind, folder in folders.items()}
    for model in found.values():
        loud(model.Qformer)
        torch.nn.init.normal_(getattr(model, model.projection).weight, std=8.0)  # so that the image is heard
    return found


@pytest.fixture
def asked(batch: dict[str, Any]) -> dict[str, Any]:
    return {"image": batch["image"][:3], "text_input": list(QUESTIONS)}


def greedy(model: Any, image: torch.Tensor, question: str, longest: int) -> str:
    """One question, token by token, all read again each time; a line ends the answer."""
    queries = model.queries({"image": image[None]})
    ids = model.opt_tokenizer(PROMPT.format(question), return_tensors="pt").input_ids
    ids_so_far: list[int] = []
    for _ in range(longest):
        words = model.opt_model.model.decoder.embed_tokens(torch.cat([ids, torch.tensor([ids_so_far]).long()], 1))
        hidden = model.opt_model.model.decoder(inputs_embeds=torch.cat([queries, words], 1)).last_hidden_state
        ids_so_far.append(int(model.opt_model.lm_head(hidden[0, -1]).argmax()))
        if ids_so_far[-1] == model.opt_tokenizer("\n", add_special_tokens=False).input_ids[0]:
            break
    return str(model.opt_tokenizer.decode(ids_so_far, skip_special_tokens=True)).strip()


def test_opt_answers_as_a_greedy_decode_by_hand(models: dict[str, Any], asked: dict[str, Any]) -> None:
    model = models["opt"]
    with torch.no_grad():
        expected = [greedy(model, image, text, 6) for image, text in zip(asked["image"], QUESTIONS, strict=True)]
    assert model.predict_answers(asked, num_beams=1, max_len=6, prompt=PROMPT) == expected
    assert len(set(expected)) > 1 and all(expected)


def test_opt_stops_at_the_newline(models: dict[str, Any], asked: dict[str, Any]) -> None:
    model = models["opt"]
    generate_as_is = model.opt_model.generate
    with mock.patch.object(model.opt_model, "generate", wraps=generate_as_is) as generate:
        model.predict_answers(asked, num_beams=1, max_len=3)
    assert generate.call_args.kwargs["eos_token_id"] == model.opt_tokenizer("\n", add_special_tokens=False).input_ids[0]


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_the_image_counts_and_its_company_does_not(kind: str, models: Any, asked: Any, batch: Any) -> None:
    model = models[kind]
    options = {"num_beams": 3, "max_len": 6, "prompt": PROMPT}
    together = model.predict_answers(asked, **options)
    alone = [
        model.predict_answers({"image": image[None], "text_input": [question]}, **options)[0]
        for image, question in zip(asked["image"], QUESTIONS, strict=True)
    ]
    assert together == alone
    options["num_beams"] = 1
    of_images = [
        tuple(model.predict_answers({"image": image.expand(3, -1, -1, -1), "text_input": QUESTIONS}, **options))
        for image in batch["image"]
    ]
    assert len(set(of_images)) > 1
    assert len(model.answer_without_image(QUESTIONS, PROMPT, 2, 4)) == 3


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_the_loss_is_lavis(kind: str, models: dict[str, Any], batch: dict[str, Any]) -> None:
    """LAVIS' own forward on our network."""
    from lavis.models.blip2_models.blip2_opt import Blip2OPT
    from lavis.models.blip2_models.blip2_t5 import Blip2T5

    model, lavis = models[kind], {"opt": Blip2OPT, "t5": Blip2T5}[kind]
    samples = {**batch, "text_output": CAPTIONS[::-1]}
    for prompt in ("", "a big"):
        with mock.patch.multiple(model, prompt=prompt, prompt_length=torch.tensor(3), create=True):
            torch.testing.assert_close(model(samples)["loss"], lavis.forward(model, samples)["loss"])


def test_t5_says_what_it_says_in_lavis(models: dict[str, Any], asked: dict[str, Any]) -> None:
    from lavis.models.blip2_models.blip2_t5 import Blip2T5

    model, options = models["t5"], {"num_beams": 3, "max_len": 6, "prompt": PROMPT}
    with mock.patch.object(model, "_apply_lemmatizer", False, create=True):
        expected = Blip2T5.predict_answers(model, dict(asked), **options, min_len=3)  # it counts T5's start
    assert model.predict_answers(asked, **options, min_len=2) == [text.strip() for text in expected]
    lengths = {"num_beams": 2, "max_length": 6}
    expected = Blip2T5.generate(model, {**asked, "prompt": "a big"}, **lengths, min_length=3)
    assert model.generate({**asked, "prompt": "a big"}, **lengths, min_length=2) == [text.strip() for text in expected]


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_tower_tokens_stand_for_the_image(kind: str, models: dict[str, Any], batch: dict[str, Any]) -> None:
    model, two = models[kind], {"text_input": CAPTIONS[:2]}
    tokens = model.visual_encoder(batch["image"][:2])
    losses = []
    for seen in ({"image": batch["image"][:2]}, {"image_tokens": tokens}):
        torch.manual_seed(0)  # T5 cuts its captions at random
        losses.append(model({**two, **seen})["loss"].item())
        assert len(model.generate({**two, **seen}, num_beams=2, max_length=4)) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_only_what_stands_before_the_language_model_is_trained(kind: str, models: dict[str, Any], batch: Any) -> None:
    model = models[kind]
    model({**batch})["loss"].backward()
    with_gradient = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert {"query_tokens", "Qformer", "ln_vision", model.projection} <= with_gradient
    assert model.llm not in with_gradient
    model.zero_grad()


def test_cut_at_random_leaves_something_to_tell() -> None:
    from lavis_mafa.models.blip2.llm import cut_at_random

    torch.manual_seed(0)
    cuts = {cut_at_random("a big red circle") for _ in range(60)}
    assert cuts == {("", "a big red circle"), ("a", "big red circle"), ("a big", "red circle"), ("a big red", "circle")}


def test_a_prompt_is_what_t5_reads_of_a_caption(folders: dict[str, Path]) -> None:
    model = stage_2("t5", folders["t5"], prompt="a photo of")
    assert model._cut("a photo of a red circle") == ("a photo of", "a red circle")


def test_a_tower_with_its_own_file_may_be_trained(folders: dict[str, Path], tmp_path: Path) -> None:
    from lavis_mafa.models.trained import trained_state

    tower = {"image_size": 48, "vit_weights": "package:assets/scenes_tower.safetensors"}
    torch.save({"model": trained_state(stage_2("opt", folders["opt"], freeze_vit=True, **tower))}, tmp_path / "x.pth")
    given = {"load_pretrained": True, "pretrained": str(tmp_path / "x.pth")}
    model = stage_2("opt", folders["opt"], freeze_vit=False, **tower, **given)
    assert model.origin["visual_encoder"].startswith("own file")
    assert any(name.startswith("visual_encoder.") for name in trained_state(model))


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_stage_1_gives_its_part(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    state = loud(tiny_blip2(), seed=7).state_dict()
    torch.save({"model": state}, tmp_path / "stage1.pth")
    model = stage_2(kind, folders[kind], load_pretrained=True, pretrained=str(tmp_path / "stage1.pth"))
    own = model.state_dict()
    taken = [key for key in own if not key.startswith((model.llm, model.projection))]
    assert len(taken) > 60 and all(torch.equal(own[key], state[key]) for key in taken)
    assert model.origin["Qformer"].endswith("stage1.pth")
    assert model.origin[model.projection] == "initialised"
    assert model.origin[model.llm] == f"own file {folders[kind]}"


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_lavis_stage_1_gives_its_part_and_the_frozen_tower_has_its_own_file(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As blip2_pretrained.pth, which holds no frozen weight."""
    tower = {"image_size": 48, "vit_weights": "package:assets/scenes_tower.safetensors", "freeze_vit": True}
    lavis = lavis_blip2(freeze_vit=True)
    frozen = {name for name, value in lavis.named_parameters() if not value.requires_grad}
    state = {key: value for key, value in loud(lavis, seed=7).state_dict().items() if key not in frozen}
    assert not any(key.startswith("visual_encoder.") for key in state)
    torch.save({"model": state}, tmp_path / "blip2_pretrained.pth")
    given = {"load_pretrained": True, "pretrained": str(tmp_path / "blip2_pretrained.pth")}
    model = stage_2(kind, folders[kind], **tower, **given)
    own = model.state_dict()
    taken = [key for key in own if key.startswith(("query_tokens", "Qformer.", "ln_vision."))]
    assert len(taken) > 60 and all(torch.equal(own[key], state[key]) for key in taken)
    assert all(model.origin[part].endswith("blip2_pretrained.pth") for part in ("query_tokens", "Qformer", "ln_vision"))
    assert model.origin["visual_encoder"] == "own file package:assets/scenes_tower.safetensors"
    assert model.origin[model.llm] == f"own file {folders[kind]}" and model.origin[model.projection] == "initialised"


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_a_packaged_language_model_is_small(kind: str) -> None:
    folder = Path(language_model_folder(f"package:assets/scenes_{kind}"))
    assert 0 < sum(file.stat().st_size for file in folder.iterdir()) <= 4 * 2**20


def test_stage_2_comes_back_without_the_language_model(folders: dict[str, Path], tmp_path: Path) -> None:
    from lavis_mafa.models.trained import trained_state

    model = stage_2("opt", folders["opt"])
    torch.nn.init.normal_(model.opt_proj.weight)
    state = trained_state(model)
    assert not any(key.startswith("opt_model.") for key in state)
    torch.save({"model": state}, tmp_path / "stage2.pth")
    again = stage_2("opt", folders["opt"], load_pretrained=True, pretrained=str(tmp_path / "stage2.pth"))
    assert torch.equal(again.opt_proj.weight, model.opt_proj.weight)
    with pytest.raises(ValueError, match="neither stage 1's vision_proj nor stage 2's t5_proj"):
        stage_2("t5", folders["t5"], load_pretrained=True, pretrained=str(tmp_path / "stage2.pth"))
    del state["query_tokens"]
    torch.save({"model": state}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="missing: query_tokens"):
        stage_2("opt", folders["opt"], load_pretrained=True, pretrained=str(tmp_path / "part.pth"))


def test_a_language_model_that_cannot_be_had_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder at"):
        stage_2("opt", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"model\.opt_model: .*set it to a hub name"):
        stage_2("opt", tmp_path / "empty")


# ---- the length of an answer


class Leaning(torch.nn.Module):
    """A head that would end at once, or never."""

    def __init__(self, head: Any, end: int, lean: float) -> None:
        super().__init__()
        self.head, self.end, self.lean = head, end, lean

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.head(hidden)
        logits[..., self.end] += self.lean
        return logits


def lengths(model: Any, say: Callable[[], Any], lean: float) -> set[int]:
    """Tokens that are generated before the end, of every image."""
    llm, whole = model.language_model, []
    end = model.stop.get("eos_token_id", llm.config.eos_token_id)
    generate = llm.generate

    def watched(**options: Any) -> Any:
        found = generate(**options)
        before = int(llm.config.is_encoder_decoder)
        whole.extend(found[:, before:].tolist())
        return found

    with (
        mock.patch.object(llm, "generate", watched),
        mock.patch.dict(llm._modules, lm_head=Leaning(llm.lm_head, end, lean)),
    ):
        say()
    return {[*tokens, end].index(end) for tokens in whole}


@pytest.mark.parametrize("least", [0, 1, 3])
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_min_len_and_max_len_count_generated_tokens(
    kind: str, beams: int, least: int, models: dict[str, Any], asked: dict[str, Any]
) -> None:
    """Whatever stands before it: the question, the prompt, a start token."""
    from lavis_mafa.tasks.captions import MafaCaptionTask
    from lavis_mafa.tasks.vqa import MafaVqaTask

    run = {"num_beams": beams, "max_len": 6, "min_len": least, "length_penalty": 0}
    tasks = (
        MafaVqaTask(OmegaConf.create({**run, "prompt": PROMPT})),
        MafaCaptionTask(OmegaConf.create({**run, "prompt": ""})),
        MafaCaptionTask(OmegaConf.create({**run, "prompt": "a big red"})),
    )
    for task in tasks:
        assert lengths(models[kind], lambda task=task: task.answer(models[kind], asked), lean=1e4) == {least}
        assert lengths(models[kind], lambda task=task: task.answer(models[kind], asked), lean=-1e4) == {6}


# ---- the precision of the language model


def built_by_task(kind: str, folder: Path, **run: Any) -> Any:
    """The model as a command builds it: the task reads run.device."""
    from lavis_mafa.tasks.vqa import MafaVqaTask

    run = {"prompt": PROMPT, "num_beams": 2, "max_len": 4, "min_len": 1, "device": "cpu", **run}
    model = {**stage_2_config(kind, folder), "arch": f"mafa_blip2_{kind}", "llm_precision": run.pop("llm_precision")}
    config = SimpleNamespace(run_cfg=OmegaConf.create(run), model_cfg=OmegaConf.create(model))
    task = MafaVqaTask.setup_task(config)
    return task, task.build_model(config).eval()


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32), (None, torch.float32)])
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_a_cpu_keeps_the_precision_that_is_asked_for(
    kind: str, name: str | None, dtype: torch.dtype, folders: dict[str, Path], asked: Any, batch: Any
) -> None:
    task, model = built_by_task(kind, folders[kind], llm_precision=name)
    assert {value.dtype for value in model.language_model.parameters()} == {dtype}
    assert {value.dtype for value in model.Qformer.parameters()} == {torch.float32}
    assert len(task.answer(model, asked)) == 3 and len(model.generate(asked, num_beams=2, max_length=4)) == 3
    model({**batch})["loss"].backward()
    assert model.query_tokens.grad.isfinite().all() and model.query_tokens.grad.any()


def test_a_gpu_gives_what_it_can(caplog: pytest.LogCaptureFixture) -> None:
    from lavis_mafa.models.blip2.language_model import precision_name

    fp16, bf16 = torch.float16, torch.bfloat16
    with mock.patch("torch.cuda.is_bf16_supported", lambda including_emulation: True):
        assert [precision_name(None, half, "cuda") for half in (fp16, bf16)] == ["fp16", "bf16"]
        assert [precision_name(name, fp16, "cuda:1") for name in ("fp16", "bf16", "fp32")] == ["fp16", "bf16", "fp32"]
        assert precision_name(None, bf16, "cpu") == "fp32" and not caplog.records
    with mock.patch("torch.cuda.is_bf16_supported", lambda including_emulation: False):
        assert precision_name(None, fp16, "cuda") == "fp16" and not caplog.records
        assert precision_name(None, bf16, "cuda") == "fp32"  # T5 leaves float16's range
        assert "the language model runs in fp32" in caplog.text
        with pytest.raises(ValueError, match=r"model.llm_precision is bf16, which this GPU .*: use fp16 or fp32"):
            precision_name("bf16", fp16, "cuda")


def test_a_precision_that_the_device_lacks_is_reported(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"model.llm_precision is fp16, which needs a GPU: use bf16 or fp32"):
        built_by_task("opt", folders["opt"], llm_precision="fp16")
    with pytest.raises(ValueError, match=r"model.llm_precision is 'int8'; choose one of fp32, bf16, fp16"):
        built_by_task("opt", folders["opt"], llm_precision="int8")


# ---- the published networks, from the numbers of their configs

GATED = {"d_kv": 64, "num_layers": 24, "num_decoder_layers": 24, "vocab_size": 32128, "feed_forward_proj": "gated-gelu"}
OPTS = {"num_hidden_layers": 32, "vocab_size": 50272, "num_attention_heads": 32}
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("opt", "pretrain_opt2.7b"): {**OPTS, "hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240},
    ("opt", "pretrain_opt6.7b"): {**OPTS, "hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384},
    ("t5", "pretrain_flant5xl"): {**GATED, "d_model": 2048, "d_ff": 5120, "num_heads": 32},
    ("t5", "pretrain_flant5xxl"): {**GATED, "d_model": 4096, "d_ff": 10240, "num_heads": 64},
}


@contextmanager
def skeletons(kind: str, numbers: dict[str, Any], folder: Path) -> Iterator[None]:
    """Language models of these sizes without weights; their words are the tiny one's, which no key depends on."""
    from lavis.models.blip2_models import blip2_opt, blip2_t5
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    from lavis_mafa.models.meta import on_meta_device

    words, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    config.update(numbers)

    def skeleton(*args: Any, **kwargs: Any) -> Any:
        return {"opt": blip2_opt.OPTForCausalLM, "t5": blip2_t5.T5ForConditionalGeneration}[kind](config)

    given = {
        (blip2_opt, "AutoTokenizer"): words,
        (blip2_t5, "T5TokenizerFast"): words,
        (blip2_t5, "T5Config"): config,
    }
    with ExitStack() as stack:
        for (module, name), answer in given.items():
            stack.enter_context(mock.patch.object(module, name, mock.Mock(from_pretrained=lambda *a, _=answer, **k: _)))
        for owner, answer in ((AutoTokenizer, words), (AutoConfig, config)):
            stack.enter_context(mock.patch.object(owner, "from_pretrained", lambda *a, _=answer, **k: _))
        for owner in (
            blip2_opt.OPTForCausalLM,
            blip2_t5.T5ForConditionalGeneration,
            AutoModelForCausalLM,
            AutoModelForSeq2SeqLM,
        ):
            stack.enter_context(mock.patch.object(owner, "from_pretrained", skeleton))
        stack.enter_context(on_meta_device())
        yield


@pytest.mark.parametrize(("kind", "model_type"), PUBLISHED)
def test_published_stage_2_has_our_keys(kind: str, model_type: str, folders: dict[str, Path]) -> None:
    from lavis.common.registry import registry

    built = {}
    for arch in (f"blip2_{kind}", f"mafa_blip2_{kind}"):
        model_cls: Any = registry.get_model_class(arch)
        config = OmegaConf.load(model_cls.default_config_path(model_type)).model
        config.update(load_finetuned=False, load_pretrained=False)
        with (
            skeletons(kind, PUBLISHED[kind, model_type], folders[kind]),
            mock.patch.object(model_cls, "load_checkpoint_from_config", lambda self, cfg: None),
        ):
            built[arch] = model_cls.from_config(config)
    theirs, ours = built.values()
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    assert len(expected) > 1000
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected
    trained = {name for name, value in theirs.named_parameters() if value.requires_grad}
    assert {name for name, value in ours.named_parameters() if value.requires_grad} == trained
    assert f"{ours.projection}.weight" in trained and not any(name.startswith(ours.llm) for name in trained)


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_without_the_image_no_less_is_said_than_with_it(kind: str, models: dict[str, Any]) -> None:
    from lavis_mafa.tasks.captions import MafaCaptionTask

    run = {"num_beams": 1, "max_len": 6, "min_len": 3, "length_penalty": 0, "prompt": "a big red"}
    llm = models[kind].language_model
    with mock.patch.object(llm, "generate", wraps=llm.generate) as asked:
        MafaCaptionTask(OmegaConf.create(run)).answer_without_image(models[kind], None, [0, 1])
    assert asked.call_args.kwargs["min_new_tokens"] == 3 and asked.call_args.kwargs["max_new_tokens"] == 6
