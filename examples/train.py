"""Train on toy/reach from Python and read what the run measured."""

import csv
from pathlib import Path

from curl_rl.config.overrides import compose
from curl_rl.run.trainer import train

SETTINGS = [
    "task=toy/reach",
    "objective=curl",
    "budget_frames=300",
    "evaluation.every_frames=100",
    "run_dir=runs/train",
]


def main() -> None:
    """Train, then print what the evaluations gave."""
    config = compose(SETTINGS)  # what `curl-rl train` makes of the same words; a mistake names its mend
    status = train(config)  # 0; run again, it says that the run is finished
    with Path(config.run_dir, "eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    for frame in dict.fromkeys(row["frame"] for row in rows):
        returns = [float(row["return"]) for row in rows if row["frame"] == frame]
        print(f"frame {frame}: mean return {sum(returns) / len(returns):.2f} over {len(returns)} episodes")
    raise SystemExit(status)


if __name__ == "__main__":  # evaluation starts processes, which import this file
    main()
