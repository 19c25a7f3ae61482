#!/usr/bin/env bash
# Pre-train BLIP-2 stage 1 (Q-Former) with MAFA, then evaluate retrieval. Without arguments: on the embedded scenes.
#   bash run_scripts/mafa/pretrain_blip2.sh
#   bash run_scripts/mafa/pretrain_blip2.sh --cfg-path projects/mafa/blip2/pretrain_stage1_flickr8k.yaml
#   bash run_scripts/mafa/pretrain_blip2.sh --options run.max_epoch=2 run.output_dir=output/try
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
train projects/mafa/blip2/pretrain_stage1_scenes.yaml "$@"
