#!/usr/bin/env bash
# Retrieval on COCO of a stage-1 checkpoint that was fine-tuned there.
#   bash run_scripts/mafa/eval_retrieval_coco.sh CHECKPOINT [KEY=VALUE…]
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
evaluate_one retrieval_coco "" "$@"
