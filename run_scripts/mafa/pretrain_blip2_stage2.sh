#!/usr/bin/env bash
# Pre-train BLIP-2 stage 2: a Q-Former of stage 1 learns to write what a frozen language model reads. Without arguments: on the
# embedded scenes, before the packaged tiny OPT, from the stage 1 of pretrain_blip2.sh.
#   bash run_scripts/mafa/pretrain_blip2_stage2.sh
#   bash run_scripts/mafa/pretrain_blip2_stage2.sh --cfg-path projects/mafa/blip2/pretrain_stage2_t5_scenes.yaml
#   bash run_scripts/mafa/pretrain_blip2_stage2.sh --cfg-path projects/mafa/blip2/pretrain_stage2_flant5xl.yaml \
#       --options model.pretrained=output/mafa/blip2_stage1/model.safetensors
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
train projects/mafa/blip2/pretrain_stage2_opt_scenes.yaml "$@"
