"""curl-rl evaluate."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command, device, path, whole


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "evaluate", run, "play episodes with a checkpoint of a run")
    parser.add_argument("run_dir", type=path, metavar="RUN", help="run directory")
    parser.add_argument("--episodes", type=whole(1, 10_000), help="how many (default: as the run's last evaluation)")
    parser.add_argument(
        "--checkpoint", default="", metavar="best|STEP", help="of the best evaluation, or an agent step's (the newest)"
    )
    parser.add_argument("--task", default="", help="play another task of the suite, with the same frames and actions")
    parser.add_argument("--video", type=path, metavar="FILE", help="film the first episode, as .mp4 or .gif")
    parser.add_argument("--distraction", metavar="KINDS", help="color, camera, video:FOLDER, joined by +; or none")
    parser.add_argument("--intensity", metavar="LEVEL", help="of the distraction: easy, medium or hard")
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, help="of the episodes (default: %(default)s)")
    parser.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Play, and print each episode and their mean."""
    from curl_rl.run.playing import evaluate_run

    wanted = (arguments.run_dir, arguments.episodes, arguments.video, arguments.seed, arguments.device)
    chosen = {name: getattr(arguments, name) for name in ("checkpoint", "task", "distraction", "intensity")}
    for episode in (episodes := evaluate_run(*wanted, **chosen, tell=print)):
        print(f"episode {episode.index}: return {episode.score:.1f}, {episode.length} agent steps")
    scores = [episode.score for episode in episodes]
    mean = sum(scores) / len(scores)
    deviation = (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
    print(f"mean return {mean:.1f}, standard deviation {deviation:.1f}, over {len(scores)} episodes")
    return 0
