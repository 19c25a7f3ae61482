"""Caption metrics of pycocoevalcap: all of them with Java, without it BLEU, ROUGE-L and CIDEr, with Python's words."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pycocoevalcap
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, PTBTokenizer

PTB, PYTHON = "PTBTokenizer (Java)", "lavis_mafa's regular expression (no Java)"
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[a-z]+(?='s\b|n't\b)|n't|'(?:s|re|ve|ll|d|m)\b|\w+(?:-\w+)*|[^\w\s]")
SPICE_JAR = Path(next(iter(pycocoevalcap.__path__))) / "spice" / "lib" / "stanford-corenlp-3.6.0.jar"
SPICE_REMEDY = "needs Java and Stanford's models, which pycocoevalcap.spice.get_stanford_models fetches"
REMEDIES = {"METEOR": "needs a Java that runs it", "SPICE": SPICE_REMEDY}
Texts = Mapping[int, Sequence[str]]
CaptionMetrics = dict[str, object]  # figures, and what they were made with


def caption_metrics(predicted: Mapping[int, str], references: Texts) -> CaptionMetrics:
    """Scores as COCO reports them (CIDEr 1.25 is the papers' 125), `tokenizer`, and what lacked (`missing`).

    predicted: {image: caption}; references: {image: captions}. With Java, `difference` is Python's words less PTB's.
    """
    spoken = {image: [caption] for image, caption in predicted.items()}
    wanted = {image: list(references[image]) for image in predicted}
    by_python = _scores(_python_words(spoken), _python_words(wanted))
    ptb = _ptb_words(spoken, wanted)
    if ptb is None:
        return {**by_python, "METEOR": None, "SPICE": None, "tokenizer": PYTHON, "missing": REMEDIES}
    scores = _scores(*ptb)
    by_java = _java_scores(*ptb)
    difference = {name: by_python[name] - value for name, value in scores.items()}
    missing = {name: remedy for name, remedy in REMEDIES.items() if by_java[name] is None}
    return {**scores, **by_java, "tokenizer": PTB, "difference": difference, "missing": missing}


def cider_of_images(predicted: Mapping[int, str], references: Texts) -> dict[int, float]:
    """CIDEr of each image; their mean is caption_metrics' CIDEr, of the same words."""
    spoken = {image: [caption] for image, caption in predicted.items()}
    wanted = {image: list(references[image]) for image in predicted}
    words = _ptb_words(spoken, wanted) or (_python_words(spoken), _python_words(wanted))
    return dict(zip(words[1], map(float, Cider().compute_score(words[1], words[0])[1]), strict=True))


def _scores(spoken: Texts, wanted: Texts) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints its lengths
        bleu = Bleu(4).compute_score(wanted, spoken)[0]
        found = {f"Bleu_{n}": float(value) for n, value in enumerate(bleu, 1)}
        found["ROUGE_L"] = float(Rouge().compute_score(wanted, spoken)[0])
        found["CIDEr"] = float(Cider().compute_score(wanted, spoken)[0])
    return found


def _python_words(texts: Texts) -> dict[int, list[str]]:
    return {image: [python_words(text) for text in captions] for image, captions in texts.items()}


def python_words(caption: str) -> str:
    """Lower case, words and marks apart, without the marks that PTBTokenizer drops, which writes " as `` or ''."""
    return " ".join(word for word in _WORD.findall(caption.lower()) if word not in (*PUNCTUATIONS, '"'))


def _ptb_words(spoken: Texts, wanted: Texts) -> tuple[Texts, Texts] | None:
    """By Stanford's tokenizer; None without a Java that runs it."""
    if shutil.which("java") is None:
        return None
    try:
        words = [
            PTBTokenizer().tokenize({i: [{"caption": c} for c in cs] for i, cs in t.items()}) for t in (spoken, wanted)
        ]
    except OSError as error:
        logging.warning("PTBTokenizer cannot run here (%s): captions are tokenized in Python", error)
        return None
    whole = all(set(found) == set(given) for found, given in zip(words, (spoken, wanted), strict=True))
    return (words[0], words[1]) if whole and any(text for texts in words[1].values() for text in texts) else None


def _java_scores(spoken: Texts, wanted: Texts) -> dict[str, float | None]:
    """METEOR, and SPICE where its models are; one that fails is None and never ends the evaluation."""
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.spice.spice import Spice

    found: dict[str, float | None] = {}
    for name, scorer in (("METEOR", Meteor), ("SPICE", Spice)):
        found[name] = None
        if name == "SPICE" and not SPICE_JAR.exists():
            continue
        try:
            found[name] = float(scorer().compute_score(wanted, spoken)[0])
        except Exception as error:  # a Java program that broke: whatever it is, the other figures stand
            logging.warning("%s cannot run here and is left out: %s", name, error)
    return found
