#!/usr/bin/env bash
# Train and report the games of results/atari100k by preset `paper` as it is now: 100,000 agent steps, with the objective
# and without. The runs there are of an earlier `paper` (docs/results.md).
# usage: OUT=runs/atari100k scripts/reproduce_atari100k.sh [--workers N | --per-gpu K | --engine ray ...]
# All 26 games with five seeds are `curl-rl benchmark atari100k` alone.
set -uo pipefail
out=${OUT:-runs/atari100k}
status=0 # of the benchmarks: what failed is listed in the report
curl-rl benchmark atari100k --out "$out" --tasks freeway boxing kung_fu_master ms_pacman pong --seeds 1 "$@" || status=$?
curl-rl report "$out" --out "report/atari100k" || status=$?
exit "$status"
