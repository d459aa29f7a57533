#!/usr/bin/env bash
# Train and report what results/dmc100k holds: 100,000 frames, preset quick as it was, with the objective and without.
# usage: OUT=runs/dmc100k scripts/reproduce_dmc100k.sh [--workers N | --engine ray ...]
# The published settings on all six tasks with five seeds, which need GPUs, are `curl-rl benchmark dmc100k` alone.
set -uo pipefail
out=${OUT:-runs/dmc100k}
status=0 # of the benchmarks: what failed is listed in the report
curl-rl benchmark dmc100k --overrides preset=quick agent.critic_norm=none --out "$out" --tasks cartpole_swingup --seeds 2 "$@" || status=$?
curl-rl benchmark dmc100k --overrides preset=quick agent.critic_norm=none --out "$out" --tasks ball_in_cup_catch --seeds 1 "$@" || status=$?
curl-rl report "$out" --out "report/dmc100k" || status=$?
exit "$status"
