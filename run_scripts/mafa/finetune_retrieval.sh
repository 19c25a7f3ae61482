#!/usr/bin/env bash
# Fine-tune LAVIS' albef_retrieval from a mafa_albef checkpoint, then evaluate it. Without arguments: on the embedded scenes,
# from what pretrain_albef.sh wrote.
#   bash run_scripts/mafa/finetune_retrieval.sh
#   bash run_scripts/mafa/finetune_retrieval.sh --options model.pretrained=CHECKPOINT
#   bash run_scripts/mafa/finetune_retrieval.sh --cfg-path projects/mafa/albef/finetune_retrieval_coco.yaml --options model.pretrained=CHECKPOINT
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
train projects/mafa/albef/finetune_retrieval_scenes.yaml "$@"
