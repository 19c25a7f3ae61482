"""Convert checkpoints: `python -m lavis_mafa.convert {to-hf,from-hf} SOURCE TARGET`.

to-hf    SOURCE: the output folder of a `mafa_blip2` training; TARGET: a new folder for transformers'
         Blip2ForImageTextRetrieval.from_pretrained, with tokenizer, image processor and a model card
from-hf  SOURCE: such a folder; TARGET: a .safetensors file with LAVIS' keys, for model.pretrained

`model.pretrained` reads such a folder directly, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

import lavis_mafa
from lavis_mafa.common.artifacts import atomic_folder, atomic_write
from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.stdout import show

if TYPE_CHECKING:
    from lavis.models.base_model import BaseModel

CARD = """---
library_name: transformers
pipeline_tag: zero-shot-image-classification
tags: [blip-2, image-text-retrieval, mafa]
license: other
---

# {name}

BLIP-2 stage 1 (Q-Former), trained with `lavis_mafa` {version}, in the layout of `Blip2ForImageTextRetrieval`.
`lavis_mafa.safetensors` has the temperature and the language head, for which that class has no room.

License: that of the weights and data it was trained from; fill it in before you publish.

## Figures

```json
{figures}
```

## Config

```yaml
{config}
```
"""


def to_folder(model: BaseModel, folder: Path, source: Path | None = None) -> Path:
    """Write a `mafa_blip2` with an EVA tower as a folder for transformers, and return the folder.

    Args:
        source: the training's output folder, whose figures and config go into the model card.

    Raises:
        ValueError: another tower, or a folder that holds something else.
    """
    from transformers import Blip2ForImageTextRetrieval, BlipImageProcessor

    from lavis_mafa.models.blip2.hugging_face import BESIDE, config_of, to_hugging_face

    state, beside = to_hugging_face(model.state_dict())
    config = config_of(model)
    with torch.device("meta"):
        theirs = Blip2ForImageTextRetrieval(config)
    theirs.load_state_dict(state, strict=True, assign=True)
    size = config.vision_config.image_size
    with atomic_folder(folder) as new:
        theirs.save_pretrained(new)
        save_file({key: value.clone().contiguous() for key, value in beside.items()}, new / BESIDE)  # some share memory
        model.tokenizer.save_pretrained(new)
        BlipImageProcessor(size={"height": size, "width": size}).save_pretrained(new)
        (new / "README.md").write_text(_card(folder.name, source), encoding="utf-8")
    return folder


def _card(name: str, source: Path | None) -> str:
    results = source / "results.json" if source else None
    found = json.loads(results.read_text("utf-8")) if results and results.exists() else {}
    config = source / "config.yaml" if source else None
    return CARD.format(
        name=name,
        version=lavis_mafa.__version__,
        figures=json.dumps(found.get("retrieval", {}), indent=2),
        config=config.read_text("utf-8").strip() if config and config.exists() else "",
    )


def to_file(folder: Path, file: Path) -> None:
    """Write what a folder of transformers holds as one file with LAVIS' keys.

    Raises:
        ValueError: the target exists, or the folder holds another model.
    """
    from lavis_mafa.models.blip2.hugging_face import is_hugging_face
    from lavis_mafa.models.pretrained import read_checkpoint, weights_file
    from lavis_mafa.models.weights import read_state_dict

    if file.exists():
        raise ValueError(f"{file} exists: choose another name")
    if not is_hugging_face(read_state_dict(weights_file(str(folder)))):
        raise ValueError(f"{folder} holds no Blip2ForImageTextRetrieval")
    state = {key: value.contiguous() for key, value in read_checkpoint(str(folder))[0].items()}
    with atomic_write(file) as written:
        save_file(state, written.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("direction", choices=("to-hf", "from-hf"), help="which way")
    parser.add_argument("source", type=Path, help="the folder to read")
    parser.add_argument("target", type=Path, help="the folder or file to write; it must not exist")
    given = parser.parse_args()
    with one_line_errors():
        lavis_mafa.register()
        if given.direction == "to-hf":
            to_folder(lavis_mafa.load(given.source).model, given.target, given.source)
        else:
            to_file(given.source, given.target)
        show(f"written: {given.target}")


if __name__ == "__main__":
    main()
