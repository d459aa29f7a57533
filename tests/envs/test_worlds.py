"""The page on environments, followed: one of one's own, and three that nobody here wrote."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from places import ROOT

from curl_rl.cli import main
from curl_rl.envs import LocalEnv, make_env
from curl_rl.run.records import read_run


@pytest.fixture(scope="module", autouse=True)
def worlds(tmp_path_factory) -> Iterator[Path]:
    """Write the page's modules into a folder that Python imports from, and hide every screen."""
    folder = tmp_path_factory.mktemp("worlds")
    page = (ROOT / "docs" / "environments.md").read_text()
    blocks = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    with pytest.MonkeyPatch.context() as patch:
        for name, block in zip(("maze", "worlds"), blocks, strict=True):
            (folder / f"{name}.py").write_text(block)
        patch.syspath_prepend(folder)
        patch.chdir(folder)  # where MuJoCo logs its warnings
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        patch.setenv("SDL_AUDIODRIVER", "dummy")
        yield folder
    for name in ("maze", "worlds"):
        sys.modules.pop(name, None)


def test_a_maze_of_ones_own_is_learned_by_its_commands(tmp_path, capsys):
    settings = ["budget_frames=1200", "random_steps=300", "env.image_size=24", "encoder=small", "agent.hidden_dim=32"]
    settings += ["batch_size=16", "evaluation.every_frames=600", "evaluation.workers=1", "evaluation.video=false"]
    run = tmp_path / "maze"
    assert (
        main(["train", "task=maze:Maze", f"run_dir={run}", "threads=1", "device=cpu", "env.overlap=false", *settings])
        == 0
    )
    assert read_run(run).config["agent"]["name"] == "rainbow"
    assert [each.frame for each in read_run(run).evaluations] == [600, 1200]
    assert main(["evaluate", str(run), "--episodes", "3", "--device", "cpu"]) == 0
    assert "over 3 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "task", "settings", "actions"),
    [
        ("minigrid", "worlds:grid", {}, spaces.Discrete(7)),
        ("minigrid", "gym/minigrid:MiniGrid-Empty-5x5-v0", {"obs": "render"}, spaces.Discrete(7)),
        ("Box2D", "gym/CarRacing-v3", {"action_repeat": 4}, spaces.Box(-1, 1, (3,), np.float32)),
        pytest.param(
            "imageio",
            "worlds:cheetah",
            {"obs": "render", "action_repeat": 4},
            spaces.Box(-1, 1, (6,), np.float32),
            marks=pytest.mark.gl,
        ),
    ],
    ids=lambda value: value if (isinstance(value, str) and ":" in value) or "/" in str(value) else "",
)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_others_environments_show_moving_pictures_that_a_seed_repeats(module, task, settings, actions):
    pytest.importorskip(module)
    env = LocalEnv(make_env(task, image_size=32, **settings))
    assert env.action_space == actions
    first, _ = env.reset(5)
    assert first.shape == (3, 32, 32)
    assert len(np.unique(first)) > 3

    def play() -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        frames = [env.reset(5)[0]]
        for _ in range(6):
            discrete = isinstance(actions, spaces.Discrete)
            env.send(rng.integers(actions.n) if discrete else rng.uniform(-1, 1, actions.shape).astype(np.float32))
            frames.append(env.receive()[0])
        return frames

    once, again = play(), play()
    assert all(np.array_equal(*pair) for pair in zip(once, again, strict=True))
    assert any(not np.array_equal(once[0], frame) for frame in once[1:])
    env.close()
