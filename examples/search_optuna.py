"""Let Optuna search for a learning rate on toy/reach, each trial a run in a folder of its own: pip install optuna."""

import argparse
from collections.abc import Mapping

import optuna  # pyright: ignore[reportMissingImports]

import curl_rl
from curl_rl.types import Clock


def trial_run(trial: optuna.Trial, frames: int) -> float:
    """Train with what Optuna suggests, which sees every evaluation; return the mean return of the last one."""
    rate = trial.suggest_float("agent.learning_rate", 1e-4, 1e-2, log=True)

    def report(clock: Clock, metrics: Mapping[str, float]) -> None:
        if "eval/return" in metrics:
            trial.report(metrics["eval/return"], clock.frame)
            if trial.should_prune():
                raise optuna.TrialPruned

    run = curl_rl.train(
        task="toy/reach",
        run_dir=f"runs/optuna/{frames}-frames/trial{trial.number}",
        budget_frames=frames,
        random_steps=frames // 3,
        evaluation={"every_frames": frames // 2, "episodes": 3, "video": False},
        callback=report,
        progress=False,
        **{"agent.learning_rate": rate},
    )
    return run.evaluations[-1].mean


def main() -> None:
    """Search, and print the best trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--frames", type=int, default=240, help="of one trial")
    arguments = parser.parse_args()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    study.optimize(lambda trial: trial_run(trial, arguments.frames), n_trials=arguments.trials)
    best = study.best_trial
    print(f"best of {len(study.trials)}: trial {best.number}, {best.params}, mean return {best.value:.2f}")


if __name__ == "__main__":
    main()
