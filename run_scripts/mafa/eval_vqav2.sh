#!/usr/bin/env bash
# Zero-shot VQAv2 (val2014) of a stage-2 checkpoint. MODEL: flant5xl or opt2.7b.
#   bash run_scripts/mafa/eval_vqav2.sh CHECKPOINT [MODEL] [KEY=VALUE…]          CHECKPOINT `published`: the weights that the YAML names
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
evaluate_one vqav2 "flant5xl" "$@"
