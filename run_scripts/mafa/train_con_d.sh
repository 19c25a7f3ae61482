#!/usr/bin/env bash
# Train a Con-D, the matching network that tells connections from negatives: random batches, annotated pairs alone.
#   bash run_scripts/mafa/train_con_d.sh                     on the embedded scenes
#   bash run_scripts/mafa/train_con_d.sh --cfg-path projects/mafa/blip2/train_con_d_flickr8k.yaml
# The paper's recipe, an ALBEF fine-tuned for COCO retrieval, and the same on scenes:
#   bash run_scripts/mafa/train_con_d.sh --cfg-path projects/mafa/albef/finetune_retrieval_coco.yaml --options model.pretrained=ALBEF.pth
#   bash run_scripts/mafa/train_con_d.sh --cfg-path projects/mafa/albef/finetune_retrieval_scenes.yaml
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
train projects/mafa/blip2/train_con_d_scenes.yaml "$@"
