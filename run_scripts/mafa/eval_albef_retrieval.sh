#!/usr/bin/env bash
# Zero-shot retrieval of a mafa_albef checkpoint, re-ranked by ITM. SET: scenes (embedded), coco or flickr30k.
#   bash run_scripts/mafa/eval_albef_retrieval.sh CHECKPOINT [SET] [KEY=VALUE…]
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
if (($# == 0)); then
    echo "usage: bash run_scripts/mafa/eval_albef_retrieval.sh CHECKPOINT [SET: scenes, coco, flickr30k] [KEY=VALUE…]" >&2
    exit 2
fi
checkpoint="$1" data=scenes
shift
if (($# > 0)) && [[ "$1" != *=* ]]; then
    data="$1"
    shift
fi
evaluate "projects/mafa/albef/zero_shot_$data.yaml" "$checkpoint" "$@"
