#!/usr/bin/env bash
# Captions of nocaps by a model fine-tuned on COCO. MODEL: opt2.7b or flant5xl.
#   bash run_scripts/mafa/eval_nocaps.sh CHECKPOINT [MODEL] [KEY=VALUE…]          CHECKPOINT `published`: the weights that the YAML names
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
evaluate_one nocaps "opt2.7b" "$@"
