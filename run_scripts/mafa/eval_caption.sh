#!/usr/bin/env bash
# Captions straight from stage 2. MODEL: scenes (embedded), coco_opt2.7b or coco_flant5xl (COCO, Karpathy's test split).
#   bash run_scripts/mafa/eval_caption.sh CHECKPOINT [MODEL] [KEY=VALUE…]          CHECKPOINT `published`: the weights that the YAML names
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
evaluate_one caption scenes "$@"
