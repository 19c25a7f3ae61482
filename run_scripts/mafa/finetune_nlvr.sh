#!/usr/bin/env bash
# Fine-tune LAVIS' albef_nlvr from a mafa_albef checkpoint, then judge statements about two images. Without arguments: on the embedded scenes,
# from what pretrain_albef.sh wrote.
#   bash run_scripts/mafa/finetune_nlvr.sh
#   bash run_scripts/mafa/finetune_nlvr.sh --options model.pretrained=CHECKPOINT
#   bash run_scripts/mafa/finetune_nlvr.sh --cfg-path projects/mafa/albef/nlvr.yaml --options model.pretrained=CHECKPOINT
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
train projects/mafa/albef/nlvr_scenes.yaml "$@"
