#!/usr/bin/env bash
# Pre-train ALBEF with MAFA, then evaluate retrieval. Without arguments: on the embedded scenes (albef_all.sh goes on to questions
# and statements).
#   bash run_scripts/mafa/pretrain_albef.sh
#   bash run_scripts/mafa/pretrain_albef.sh --cfg-path projects/mafa/albef/pretrain_4m.yaml
#   bash run_scripts/mafa/pretrain_albef.sh --options run.stop_epoch=2 run.output_dir=output/try
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
train projects/mafa/albef/pretrain_stage_scenes.yaml "$@"
