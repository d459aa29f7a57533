#!/usr/bin/env bash
# Whether an agent learns sooner from a pre-trained encoder: results/starts. Goes on where it was stopped.
# usage: scripts/reproduce_starts.sh ENCODERS     for example runs/representation/dmc_cartpole_swingup/atc, whose seeds
#   are atc-seed1 to atc-seed3        TASK=dmc/cartpole_swingup OUT=results/starts SEEDS=3 BUDGET=budget_frames=40000
# At equal frames of the agent's own: frozen pre-trained, frozen untrained, pre-trained and trained on, and from scratch.
set -euo pipefail
encoders=$1 task=${TASK:-dmc/cartpole_swingup} work=${WORK:-runs/starts}
out=${OUT:-results/starts}/${task//\//_}
for seed in $(seq 1 "${SEEDS:-3}"); do
  untrained=$work/untrained-seed$seed
  python - "$encoders-seed$seed" "$untrained" "$seed" <<'PYTHON'
import sys
from pathlib import Path

import torch

from curl_rl.representation.export import describe_encoder, load_encoder, save_encoder

trained, out, seed = load_encoder(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(seed)
encoder = trained.encoder.fresh()
save_encoder(encoder, describe_encoder(encoder), trained.obs_shape, out)
PYTHON
  for start in scratch frozen frozen_untrained finetuned; do
    case $start in
      scratch) begin="" ;;
      frozen) begin="pretrained.path=$encoders-seed$seed pretrained.freeze=true" ;;
      frozen_untrained) begin="pretrained.path=$untrained pretrained.freeze=true" ;;
      finetuned) begin="pretrained.path=$encoders-seed$seed" ;;
    esac
    curl-rl train task="$task" objective=none seed="$seed" run_dir="$out/$start-seed$seed" $begin device=cpu threads=1 env.overlap=false evaluation.workers=1 evaluation.video=false ${BUDGET:-budget_frames=40000}
  done
done
curl-rl report "$out" --out "$work/report"
