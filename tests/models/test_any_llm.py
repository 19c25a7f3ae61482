"""`mafa_blip2_llm` before tiny random language models of several families, with the tokenizer of the packaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    Gemma2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from lavis_mafa.models.blip2.language_model import language_model_folder
from tests.models.tiny import loud
from tests.models.tiny_llm import T5, stage_2

DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "eos_token_id": 1,
    "bos_token_id": 1,
}
BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 1,
}
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen2": (Qwen2Config, DECODER | {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, DECODER),
    "llama": (LlamaConfig, DECODER),
    "gemma2": (Gemma2Config, DECODER | {"query_pre_attn_scalar": 16, "tie_word_embeddings": False}),
    "t5": (T5Config, {key: value for key, value in T5.items() if key != "tie_word_embeddings"}),
    "bart": (BartConfig, BART),
}
QUESTIONS = ["what color is the circle?", "how many objects are there?", "is there a star?"]
PROMPT = "Question: {} Answer:"


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random language model, as a hub would have it, whose authors recommend to sample."""
    folder = tmp_path_factory.mktemp(request.param)
    words = AutoTokenizer.from_pretrained(language_model_folder("package:assets/scenes_t5"))
    config_class, sizes = CONFIGS[request.param]
    if config_class not in (
        T5Config,
        BartConfig,
    ):  # no token stands before or behind a text, and there is none to pad with
        words = PreTrainedTokenizerFast(tokenizer_object=words.backend_tokenizer, eos_token="</s>")
        words.backend_tokenizer.post_processor = _nothing_added()
    words.save_pretrained(folder)
    config_class(vocab_size=len(words), **sizes).save_pretrained(folder)
    config = config_class(vocab_size=len(AutoTokenizer.from_pretrained(folder)), **sizes)
    torch.manual_seed(1)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = loud(auto.from_config(config))
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0)
    model.save_pretrained(folder)
    return folder


def _nothing_added() -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    model = stage_2("llm", folder)
    loud(model.Qformer)
    torch.nn.init.normal_(model.llm_proj.weight, std=8.0)
    return model


def test_only_what_stands_before_the_language_model_is_trained(model: Any, batch: dict[str, Any]) -> None:
    loss = model({**batch})["loss"]
    loss.backward()
    with_gradient = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert loss.isfinite() and {"query_tokens", "Qformer", "ln_vision", "llm_proj"} <= with_gradient
    assert "llm_model" not in with_gradient
    model.zero_grad()


def test_the_end_of_a_text_is_learned(model: Any, batch: dict[str, Any]) -> None:
    if model.is_encoder_decoder:
        pytest.skip("its tokenizer ends a text")
    kept: list[Any] = []
    handle = model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: kept.append(kwargs["labels"]), with_kwargs=True
    )
    model({**batch})
    handle.remove()
    last = [[label for label in row if label >= 0][-1] for row in kept[0].tolist()]
    assert set(last) == {model.llm_words.eos_token_id}


@pytest.mark.parametrize("beams", [1, 3])
def test_the_image_counts_and_its_company_does_not(model: Any, batch: dict[str, Any], beams: int) -> None:
    options = {"num_beams": beams, "max_len": 5, "prompt": PROMPT}
    images = batch["image"][:3]
    together = model.predict_answers({"image": images, "text_input": QUESTIONS}, **options)
    alone = [
        model.predict_answers({"image": image[None], "text_input": [question]}, **options)[0]
        for image, question in zip(images, QUESTIONS, strict=True)
    ]
    assert together == alone  # and greedy: what its authors recommend would sample
    of_images = {
        tuple(model.predict_answers({"image": image.expand(3, -1, -1, -1), "text_input": QUESTIONS}, **options))
        for image in batch["image"]
    }
    assert len(of_images) > 1


def test_a_decoder_says_what_it_says_token_by_token(model: Any, batch: dict[str, Any]) -> None:
    if model.is_encoder_decoder:
        pytest.skip("for decoders")
    llm, image = model.language_model, batch["image"][:1]
    ids = model.llm_words(PROMPT.format(QUESTIONS[0]), return_tensors="pt").input_ids
    chosen: list[int] = []
    with torch.no_grad():
        queries = model.queries({"image": image})
        for _ in range(5):
            words = llm.get_input_embeddings()(torch.cat([ids, torch.tensor([chosen]).long()], 1))
            chosen.append(int(llm(inputs_embeds=torch.cat([queries, words], 1)).logits[0, -1].argmax()))
    samples = {"image": image, "text_input": QUESTIONS[:1]}
    expected = model.llm_words.decode(chosen, skip_special_tokens=True).strip()
    if model.llm_words.eos_token_id not in chosen:
        assert model.predict_answers(samples, num_beams=1, max_len=5, prompt=PROMPT) == [expected]


def test_captions_and_answers_without_an_image(model: Any, batch: dict[str, Any]) -> None:
    assert len(model.generate({"image": batch["image"][:2]}, num_beams=2, max_length=4, num_captions=2)) == 4
    assert len(model.generate({"image": batch["image"][:2]}, use_nucleus_sampling=True, max_length=4)) == 2
    assert len(model.answer_without_image(["", ""], num_beams=1, max_len=3)) == 2


def test_stage_2_comes_back_without_the_language_model(model: Any, folder: Path, tmp_path: Path) -> None:
    from lavis_mafa.models.trained import trained_state

    state = trained_state(model)
    assert not any(key.startswith("llm_model.") for key in state)
    torch.save({"model": state}, tmp_path / "stage2.pth")
    again = stage_2("llm", folder, load_pretrained=True, pretrained=str(tmp_path / "stage2.pth"))
    assert torch.equal(again.llm_proj.weight, model.llm_proj.weight)
    assert again.origin["llm_model"] == f"own file {folder}"
