#!/usr/bin/env bash
# Zero-shot GQA of a stage-2 checkpoint. MODEL: scenes (embedded questions), opt2.7b or flant5xl (GQA, balanced test-dev).
#   bash run_scripts/mafa/eval_gqa.sh CHECKPOINT [MODEL] [KEY=VALUE…]          CHECKPOINT `published`: the weights that the YAML names
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
evaluate_one gqa "scenes" "$@"
