#!/usr/bin/env bash
# Captions. MODEL, straight from stage 2: scenes (embedded), coco_opt2.7b or coco_flant5xl (COCO, Karpathy's test split);
# coco_ft_opt2.7b or coco_ft_flant5xl: of a model that was fine-tuned there.
#   bash run_scripts/mafa/eval_caption.sh CHECKPOINT [MODEL] [KEY=VALUE…]          CHECKPOINT `published`: the weights that the YAML names
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
if [[ "${1:-}" == published && "${2:-}" == coco_ft_* ]]; then
    set -- "$@" model.load_finetuned=true # the YAML, which fine-tunes, starts from stage 2
fi
evaluate_one caption scenes "$@"
