#!/usr/bin/env bash
# Fine-tune for retrieval, then evaluate. Without arguments: LAVIS' albef_retrieval on the embedded scenes, from what pretrain_albef.sh
# wrote. BLIP-2 is fine-tuned with its vision tower; on scenes from what pretrain_blip2.sh wrote.
#   bash run_scripts/mafa/finetune_retrieval.sh
#   bash run_scripts/mafa/finetune_retrieval.sh --options model.pretrained=CHECKPOINT
#   bash run_scripts/mafa/finetune_retrieval.sh --cfg-path projects/mafa/blip2/finetune_retrieval_scenes.yaml
#   bash run_scripts/mafa/finetune_retrieval.sh --cfg-path projects/mafa/albef/finetune_retrieval_coco.yaml --options model.pretrained=CHECKPOINT
#   bash run_scripts/mafa/finetune_retrieval.sh --cfg-path projects/mafa/blip2/finetune_retrieval_coco.yaml --options model.pretrained=CHECKPOINT
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
train projects/mafa/albef/finetune_retrieval_scenes.yaml "$@"
