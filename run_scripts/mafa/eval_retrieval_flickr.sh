#!/usr/bin/env bash
# Zero-shot retrieval on Flickr30k of a stage-1 checkpoint that was fine-tuned on COCO.
#   bash run_scripts/mafa/eval_retrieval_flickr.sh CHECKPOINT [KEY=VALUE…]
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
evaluate_one retrieval_flickr "" "$@"
