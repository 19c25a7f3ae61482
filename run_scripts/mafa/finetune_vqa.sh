#!/usr/bin/env bash
# Fine-tune LAVIS' albef_vqa from a mafa_albef checkpoint, then answer questions. Without arguments: on the embedded scenes,
# from what pretrain_albef.sh wrote.
#   bash run_scripts/mafa/finetune_vqa.sh
#   bash run_scripts/mafa/finetune_vqa.sh --options model.pretrained=CHECKPOINT
#   bash run_scripts/mafa/finetune_vqa.sh --cfg-path projects/mafa/albef/vqa_coco.yaml --options model.pretrained=CHECKPOINT
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
train projects/mafa/albef/vqa_scenes.yaml "$@"
