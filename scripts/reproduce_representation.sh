#!/usr/bin/env bash
# What each objective's encoder knows of play that it has not seen: results/representation. Goes on where it was stopped.
# usage: scripts/reproduce_representation.sh [TASK ...]     by default cartpole_swingup, cheetah_run and breakout
#   OUT=results/representation SEEDS=3 UPDATES=400 EPISODES=20 OBJECTIVES="byol simclr" BUDGET=budget_frames=100000
# An agent that learned without contrast plays, half of its episodes with a fifth of random actions, half at random.
set -euo pipefail
out=${OUT:-results/representation} work=${WORK:-runs/representation}
all="atc barlow_twins byol cpc curl deepcluster mochi moco pcl pixel_contrast simclr simsiam spcl spr supcon swav vicreg wmse"
suited() { # settings of an objective whose usual pace is made for longer trainings: an epoch of 5,000 frames
  case $1 in
    mochi) echo "objective.warmup=78" ;;
    pcl | spcl) echo "objective.period=78 objective.warmup=78" ;;
    swav) echo "objective.queue_start=78" ;;
    deepcluster) echo "objective.period=78" ;;
  esac
}
[ $# -gt 0 ] || set -- dmc/cartpole_swingup dmc/cheetah_run atari/breakout
for task in "$@"; do
  place=$work/${task//\//_}
  local="device=cpu threads=1"
  case $task in # what a run of its default preset sees, and by which encoder
    dmc/*) seen="stack=3 encoder=strided" ;;
    atari/*) seen="stack=4 encoder=canonical" ;;
    *) seen="stack=2 encoder=small" ;;
  esac
  curl-rl train task="$task" objective=none seed=1 run_dir="$place/run" env.overlap=false evaluation.workers=1 evaluation.video=false $local ${BUDGET:-}
  for seed in 0 1; do # one to learn from, one to be asked about
    half=$(((${EPISODES:-20} + 1) / 2))
    curl-rl record "$place/run" --out "$place/play$seed/agent" --episodes $half --seed $seed --epsilon 0.2 --workers 1
    curl-rl record "$place/run" --out "$place/play$seed/random" --episodes $half --seed $seed --epsilon 1 --workers 1
  done
  for seed in $(seq 1 "${SEEDS:-3}"); do
    for objective in ${OBJECTIVES:-$all}; do
      curl-rl pretrain objective="$objective" data="$place/play0" out="$place/$objective-seed$seed" seed="$seed" updates="${UPDATES:-400}" batch_size=64 $(suited "$objective") $seen $local ${SETTINGS:-}
    done
  done
  curl-rl probe "$place"/*-seed* --data "$place/play1" --out "$out/${task//\//_}" --seeds "${SEEDS:-3}" --device cpu
done
