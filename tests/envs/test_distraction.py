"""Distractions change what is seen within the published bounds, and nothing of what is simulated."""

import itertools
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from curl_rl import envs
from curl_rl.config.overrides import compose
from curl_rl.envs import EnvError, dmc, footage
from curl_rl.envs.distraction import _Background
from curl_rl.run.judging import make_judges
from curl_rl.run.playing import _distracted
from curl_rl.run.stored import env_settings, make_protocol
from curl_rl.types import ConfigError

CARTPOLE, CHEETAH, REACHER = "dmc/cartpole_swingup", "dmc/cheetah_run", "dmc/reacher_easy"
LEVELS = {"easy": 0.1, "medium": 0.2, "hard": 0.3}


def write_videos(folder: Path, count: int, first: int = 0, frames: int = 5) -> Path:
    """Write videos as folders of images, each frame of one grey: 10 times its video's number plus its own."""
    for video in range(first, first + count):
        (folder / f"v{video:02d}").mkdir(parents=True)
        for frame in range(frames):
            Image.new("RGB", (8, 6), (10 * video + frame,) * 3).save(folder / f"v{video:02d}" / f"{frame}.png")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), 16)


def make(task: str = CARTPOLE, distraction: str = "", level: str = "easy", **settings) -> dmc.DmcEnv:
    settings = {"image_size": 24, "distraction": distraction, "distraction_intensity": level, **settings}
    env = envs.make_env(task, **settings).unwrapped
    assert isinstance(env, dmc.DmcEnv)
    return env


def play(env: dmc.DmcEnv, seed: int, steps: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    frames = [env.reset(seed=seed)[0]]
    frames += [env.step(rng.uniform(-1, 1, env.action_space.shape))[0] for _ in range(steps)]
    return frames


def greys(env: dmc.DmcEnv, seed: int, steps: int) -> list[int]:
    """Play a video behind a task, and return the grey of each frame's upper left corner, where the sky is."""
    return [int(frame[0, 0, 0]) for frame in play(env, seed, steps)]


def playing(env: dmc.DmcEnv, seed: int, steps: int) -> list[int]:
    """Return the same without rendering: what the sky's texture holds."""
    physics, shown = env._env.physics, []
    env._distraction.start(physics, seed)
    for _ in range(steps + 1):
        shown.append(int(physics.model.ptr.tex_data[physics.model.ptr.tex_adr[env._distraction.texture]]))
        env._distraction.advance(physics, 1)
    return shown


# What is seen


@pytest.mark.gl
@pytest.mark.parametrize("kind", ["color", "camera", "video"])
def test_frames_are_a_function_of_the_episodes_seed_and_differ_from_the_plain_ones(kind, videos):
    distraction = f"video:{videos}" if kind == "video" else kind
    env, other, plain = make(distraction=distraction), make(distraction=distraction), make()
    frames = play(env, 5)
    play(other, 4)
    assert np.array_equal(frames, play(other, 5))
    assert not np.array_equal(frames, play(env, 6))
    assert all((a != b).any() for a, b in zip(frames, play(plain, 5), strict=True))


@pytest.mark.gl
def test_a_kind_draws_the_same_beside_others(videos):
    alone, beside = make(distraction="camera"), make(distraction=f"video:{videos}+color+camera")
    play(alone, 3)
    play(beside, 3)
    for name in ("cam_xpos", "cam_xmat"):
        ours, theirs = (getattr(env._env.physics.data, name)[0] for env in (alone, beside))
        assert np.array_equal(ours, theirs)


@pytest.mark.gl
@pytest.mark.parametrize("level", LEVELS)
def test_colours_stay_within_the_published_share_and_walk(level):
    env, plain, scale = make(distraction="color", level=level), make(), LEVELS[level]
    own = plain._env.physics.model.mat_rgba.copy()
    seen = []
    for seed in range(20):
        env._distraction.start(env._env.physics, seed)
        for _ in range(3):
            seen.append(env._env.physics.model.mat_rgba.copy())
            env._distraction.advance(env._env.physics, 1)
    seen = np.array(seen)
    assert np.array_equal(seen[..., 3], np.broadcast_to(own[:, 3], seen.shape[:2]))
    moved = seen[..., :3] - own[:, :3]
    assert scale * 0.9 < np.abs(moved).max() <= scale + 1e-6
    assert seen.min() >= 0
    assert seen.max() <= 1
    steps = np.diff(seen[..., :3].reshape(20, 3, -1), axis=1)
    inside = np.abs(steps[np.abs(steps) > 0])
    assert 0.02 * scale < np.sqrt((inside**2).mean()) < 0.04 * scale  # 0.03 of it, a little less at the bounds


@pytest.mark.gl
def test_colours_of_a_frame_move_by_little():
    plain, env = play(make(), 2)[0].astype(int), play(make(distraction="color"), 2)[0].astype(int)
    assert 0 < np.abs(plain - env).max() <= 60  # 0.1 of 255, lit by several lights


@pytest.mark.gl
def test_what_is_static_stays_for_an_episode(videos):
    env = make(distraction=f"color+camera+video:{videos}", distraction_dynamic=False)

    def drawn(seed):
        physics = (
            env._env.physics.model.mat_rgba,
            env._env.physics.data.cam_xpos[0],
            env._env.physics.data.cam_xmat[0],
        )
        env.reset(seed=seed)
        first = [array.copy() for array in physics]
        grey = env.render()[0, 0, 0]
        env.step(np.ones(1))
        assert all(map(np.array_equal, first, physics))
        assert env.render()[0, 0, 0] == grey
        return [array.tobytes() for array in first]

    assert all(a != b for a, b in zip(drawn(1), drawn(2), strict=True))


def sphere(env: dmc.DmcEnv) -> tuple[float, float, float]:
    """Return distance, angle around the vertical and angle from it of the camera, as the task's own mode sees it."""
    physics = env._env.physics
    follows = physics.model.cam_mode[0] == 2
    x, y, z = physics.data.cam_xpos[0] - (physics.data.subtree_com[1] if follows else 0)
    return np.sqrt(x * x + y * y + z * z), np.arctan2(y, x), np.arctan2(np.hypot(x, y), z)


@pytest.mark.gl
@pytest.mark.parametrize("task", [CARTPOLE, CHEETAH, REACHER])
@pytest.mark.parametrize("level", ["easy", "hard"])
def test_the_camera_moves_within_its_published_bounds(task, level):
    env, plain, scale = make(task, "camera", level, action_repeat=20), make(task), LEVELS[level]
    places, homes = [], []
    for seed in range(6):
        plain.reset(seed=seed)
        homes.append(sphere(plain))
        env.reset(seed=seed)
        for _ in range(4):
            env.step(np.zeros(env.action_space.shape))
            places.append((*sphere(env), env._distraction._kinds["camera"]._roll))
    distance, around, down = np.array(homes).repeat(4, 0).T
    places, reach = np.array(places), np.pi / 2 * scale + 1e-6
    ratio = places[:, 0] / distance
    assert (1 - 0.5 * scale - 1e-6 <= ratio).all()
    assert (ratio <= 1 + 1.5 * scale + 1e-6).all()
    for angle, home in ((places[:, 1], around), (places[:, 2], down), (places[:, 3], 0)):
        assert 0.3 * reach < np.abs(angle - home).max() <= reach
    if task != REACHER:
        assert (places[:, 2] <= np.pi / 2 + 1e-9).all()  # not below the floor


@pytest.mark.gl
def test_the_cameras_walk_is_no_faster_than_published():
    env, places, rolls = make(distraction="camera", level="hard"), [], []
    env._env.reset()
    distance = sphere(env)[0]
    env._distraction.start(env._env.physics, 0)
    for _ in range(60):
        places.append(env._env.physics.data.cam_xpos[0].copy())
        rolls.append(env._distraction._kinds["camera"]._roll)
        env._distraction.advance(env._env.physics, 1)
    speeds = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert 0.2 * 0.3 * distance / 4 < speeds.max() <= 0.4 * 0.3 * distance / 4 + 1e-9
    assert 0 < np.abs(np.diff(rolls)).max() <= np.pi / 50 * 0.3 + 1e-9


@pytest.mark.gl
@pytest.mark.parametrize("task", [CARTPOLE, CHEETAH, REACHER])
def test_the_camera_looks_where_the_tasks_own_does(task):
    env, plain = make(task, "camera", "hard"), make(task)
    env.reset(seed=1)
    plain.reset(seed=1)
    own, moved = plain._env.physics.data, env._env.physics.data
    away = np.linalg.norm(own.cam_xpos[0] - own.subtree_com[1])
    target = own.cam_xpos[0] - away * own.cam_xmat[0].reshape(3, 3)[:, 2]
    axes = moved.cam_xmat[0].reshape(3, 3)
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1)
    sight = target - moved.cam_xpos[0]
    assert np.allclose(-axes[:, 2], sight / np.linalg.norm(sight), atol=1e-6)


@pytest.mark.gl
@pytest.mark.parametrize("task", ["dmc/quadruped_walk", "dmc/lqr_lqr_2_1", "dmc/fish_swim", "dmc/humanoid_CMU_run"])
def test_tasks_that_were_not_in_the_paper_can_be_distracted(task, videos):
    env, plain = make(task, f"color+camera+video:{videos}", "easy"), make(task)
    frames = play(env, 1, steps=2)
    assert np.isfinite(env._env.physics.data.cam_xmat[0]).all()
    assert all((a != b).any() for a, b in zip(frames, play(plain, 1, steps=2), strict=True))
    assert np.array_equal(frames, play(env, 1, steps=2))


# Videos


@pytest.mark.gl
def test_a_video_plays_forwards_and_backwards_from_any_frame(videos):
    env = make(CHEETAH, f"video:{videos}")
    starts = set()
    assert greys(env, 0, 5) == playing(env, 0, 5)
    for seed in range(12):
        shown = playing(env, seed, 12)
        video, first = divmod(shown[0], 10)
        assert {grey // 10 for grey in shown} == {video}  # one video an episode
        assert video in (0, 1, 2, 3)  # the first four are those of easy
        steps = np.abs(np.diff(shown))
        assert set(steps) <= {0, 1}
        assert max(shown) - min(shown) == 4  # all five frames are seen
        starts.add((video, first, shown[1] - shown[0]))
    assert len({video for video, *_ in starts}) > 1
    assert len({first for _, first, _ in starts}) > 2
    assert {direction for *_, direction in starts} >= {-1, 1}


@pytest.mark.gl
def test_a_repeated_action_lets_as_much_time_pass(videos):
    single, held = (make(CHEETAH, f"color+camera+video:{videos}", action_repeat=repeat) for repeat in (1, 3))
    action = np.full(6, 0.3)
    single.reset(seed=2)
    held.reset(seed=2)
    for _ in range(2):
        frames = [single.step(action)[0] for _ in range(3)]
        assert np.array_equal(held.step(action)[0], frames[-1])


@pytest.mark.gl
def test_splits_show_other_colours_views_and_videos(videos):
    shown = {}
    for split in ("train", "evaluation"):
        env = make(CHEETAH, f"color+camera+video:{videos}", distraction_split=split)
        played = {playing(env, seed, 0)[0] // 10 for seed in range(8)}
        physics = env._env.physics
        env.reset(seed=1)
        shown[split] = played, physics.model.mat_rgba.tobytes(), physics.data.cam_xpos[0].tobytes()
    assert shown["train"][0] <= {0, 1, 2, 3}
    assert shown["evaluation"][0] <= {12, 13, 14, 15}
    assert all(a != b for a, b in zip(shown["train"], shown["evaluation"], strict=True))


def names(found) -> list[str]:
    return [video.path.name for video in found]


def test_a_folders_videos_are_split_by_name(tmp_path):
    train, evaluation = footage.split_videos(str(write_videos(tmp_path / "plain", 18)), 4, None)
    assert names(train) == [f"v{i:02d}" for i in range(13)]
    assert names(evaluation) == [f"v{i:02d}" for i in range(13, 18)]  # the last quarter, rounded up
    assert names(footage.split_videos(str(tmp_path / "plain"), 4, 4)[1]) == ["v13", "v14", "v15", "v16"]
    write_videos(tmp_path / "named" / "train", 4, first=10)
    write_videos(tmp_path / "named" / "evaluation", 4)
    train, evaluation = footage.split_videos(str(tmp_path / "named"), 4, 4)
    assert names(train) == ["v10", "v11", "v12", "v13"]
    assert names(evaluation) == ["v00", "v01", "v02", "v03"]


@pytest.mark.parametrize(
    ("level", "counts"), [("easy", (4, 4)), ("medium", (8, 8)), ("hard", (15, 9))], ids=["easy", "medium", "hard"]
)
def test_each_intensity_plays_its_number_of_videos(level, counts, tmp_path):
    for split, count, first in (("train", 15, 0), ("evaluation", 9, 16)):
        write_videos(tmp_path / split, count, first, frames=1)
    for split, count in zip(("train", "evaluation"), counts, strict=True):
        env = make(CARTPOLE, f"video:{tmp_path}", level, distraction_split=split)
        assert len(env._distraction._kinds["video"]._videos) == count


def test_a_film_is_read_as_a_folder_of_images_is(tmp_path):
    import av

    greys = [20, 120, 220]
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 64, 48
        for grey in greys:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "images").mkdir()
    for i, grey in enumerate(greys):
        Image.new("RGB", (64, 48), (grey,) * 3).save(tmp_path / "images" / f"{i}.jpg")
    for name in ("film.mp4", "images"):
        frames = footage.Footage(tmp_path / name).frames()
        assert frames.shape == (3, 256, 256, 3)
        assert np.allclose(frames.mean((1, 2, 3)), greys, atol=4)


def test_a_long_video_is_cut_so_that_memory_is_bounded(tmp_path):
    write_videos(tmp_path, 1, frames=130)
    assert len(footage.Footage(tmp_path / "v00").frames()) == 128


@pytest.mark.parametrize(
    ("count", "broken", "words"),
    [
        (15, "", r"11 videos for .* and 4 for evaluation.*needs 8 of each.* lower env\.distraction_intensity"),
        (32, "v03", "v03 cannot be read as a video.*mend it or take it out"),
        (32, "v25.mp4", "v25.mp4 cannot be read as a video.*mend it or take it out"),
    ],
    ids=["few", "an image", "a film"],
)
def test_a_folder_that_cannot_be_played_is_refused_at_once(tmp_path, count, broken, words):
    write_videos(tmp_path, count, frames=1)
    if broken:
        (tmp_path / broken / "0.png" if "." not in broken else tmp_path / broken).write_bytes(b"no picture")
    for split in ("train", "evaluation"):  # of either split, so that a run does not stop at its first evaluation
        with pytest.raises(EnvError, match=words):
            make(CARTPOLE, f"video:{tmp_path}", "medium", distraction_split=split)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distraction": "colour"}, "'colour' is none of color, camera or video:FOLDER"),
        ({"distraction": "color+"}, r"'color\+' is none of"),
        ({"distraction": "color:x"}, "'color:x' is none of"),
        ({"distraction": "video:"}, "'video:' is none of"),
        ({"distraction": "camera+camera"}, "names camera twice"),
        ({"distraction": "color", "obs": "state"}, r"env\.obs=state has none"),
        ({"distraction": "camera", "camera": -1}, r"set env\.camera=0"),
        ({"distraction": "video:/nowhere/at all"}, r"^env\.distraction=video:/nowhere/at all is no folder: give one"),
        ({"distraction_intensity": "wild"}, r"^env\.distraction_intensity='wild' is none of easy, medium, hard"),
        ({"distraction_split": "test"}, "'test' is none of train, evaluation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_is_no_distraction_is_refused(settings, words):
    with pytest.raises(EnvError, match=words):
        envs.make_env(CARTPOLE, **settings)


def test_a_video_needs_a_sky():
    ptr = SimpleNamespace(tex_type=np.array([0, 1]))  # a flat texture and a cube's
    background = _Background([], dynamic=True, floor=0.3)
    with pytest.raises(EnvError, match=r"^env\.distraction=video needs .* set env\.distraction=color\+camera"):
        background.prepare(SimpleNamespace(model=SimpleNamespace(ptr=ptr)))


# What stays


@pytest.mark.gl
def test_states_and_rewards_are_the_plain_tasks(videos):
    plain = make(CHEETAH, state=True, action_repeat=4)
    env = make(CHEETAH, f"color+camera+video:{videos}", "easy", state=True, action_repeat=4)
    rng = np.random.default_rng(1)
    assert plain.reset(seed=3)[1] == env.reset(seed=3)[1]
    for action in rng.uniform(-1, 1, (20, 6)):
        _, *told = plain.step(action)
        _, *distracted = env.step(action)
        assert told == distracted


@pytest.mark.gl
def test_labels_move_with_the_camera():
    """Where the map of the plain view says cart or pole, the same bodies' pixels are those of a segmentation anew."""
    env, plain = (make(CARTPOLE, kind, "hard", image_size=96, labels=True) for kind in ("camera", ""))
    _, info = env.reset(seed=2)
    _, own = plain.reset(seed=2)
    assert (info["labels"] != own["labels"]).any()
    physics = env._env.physics
    for body, label in ((1, 2), (2, 3)):  # cart and pole
        rows, columns = np.nonzero(info["labels"] == label)
        x, y = projected(physics, physics.data.xipos[body], side=24)
        assert columns.min() - 1 <= x <= columns.max() + 1
        assert rows.min() - 1 <= y <= rows.max() + 1
    frame = env.render((24, 24)).astype(int)
    warm = frame[..., 0] - frame[..., 2] > 40  # orange, of cart and pole alone
    assert warm.sum() > 4
    assert np.isin(info["labels"][warm], (2, 3)).mean() > 0.9


def projected(physics, point: np.ndarray, side: int) -> tuple[float, float]:
    """Return column and row at which the first camera sees a point of the world."""
    x, y, z = physics.data.cam_xmat[0].reshape(3, 3).T @ (point - physics.data.cam_xpos[0])
    focal = side / 2 / np.tan(np.radians(physics.model.cam_fovy[0]) / 2)
    return side / 2 + focal * x / -z, side / 2 - focal * y / -z


@pytest.mark.gl
@pytest.mark.parametrize("task", [CARTPOLE, CHEETAH])
def test_labels_are_the_plain_ones_before_a_video(task, videos):
    env, plain = (make(task, kind, image_size=48, labels=True) for kind in (f"video:{videos}", ""))
    (frame, info), (_, own) = env.reset(seed=1), plain.reset(seed=1)
    assert np.array_equal(info["labels"], own["labels"])
    assert not info["labels"][:2].any()
    assert (frame[:, :8] == playing(env, 1, 0)[0]).all()  # there the video is seen


@pytest.mark.gl
def test_a_floor_that_a_video_replaces_is_nothing(videos):
    env = make(REACHER, f"video:{videos}", image_size=48, labels=True)
    frame, info = env.reset(seed=1)
    assert (info["labels"] == 0).mean() > 0.3
    assert (frame == frame[0, 12, 12]).mean() > 0.3


@pytest.mark.gl
def test_plain_environments_are_not_disturbed_by_distracted_ones(videos):
    alone = play(make(CHEETAH), 7)
    plain = make(CHEETAH)
    others = [make(CHEETAH, kind, "easy") for kind in ("color", "camera", f"video:{videos}")]
    before = plain.reset(seed=7)[0]
    for other in others:
        other.reset(seed=1)
    frames, rng = [before], np.random.default_rng(0)
    for _ in range(3):
        action = rng.uniform(-1, 1, 6)
        for other in others:
            other.step(action)
        frames.append(plain.step(action)[0])
    assert np.array_equal(frames, alone)
    assert plain._renderers[24, 24] is others[0]._renderers[24, 24]
    assert plain._renderers[24, 24] is not others[2]._renderers[24, 24]


@pytest.mark.gl
def test_two_videos_at_once_do_not_mix(videos):
    first, second = make(CHEETAH, f"video:{videos}"), make(CHEETAH, f"video:{videos}", distraction_split="evaluation")
    first.reset(seed=0)
    second.reset(seed=0)
    for _ in range(3):
        shown = [int(env.step(np.zeros(6))[0][0, 0, 0]) // 10 for env in (first, second)]
        assert shown[0] < 4
        assert shown[1] >= 12


@pytest.mark.gl
def test_a_restarted_process_shows_the_same_episode(videos):
    settings = {"image_size": 24, "distraction": f"color+camera+video:{videos}"}
    with envs.RemoteEnv(CARTPOLE, settings) as undisturbed, envs.RemoteEnv(CARTPOLE, settings) as killed:
        shown = []
        for env in (undisturbed, killed):
            frames = [env.reset(11)[0]]
            for step in range(4):
                if step == 2 and env is killed:
                    os.kill(env.pid, signal.SIGKILL)
                env.send(np.full(1, 0.5, np.float32))
                frames.append(env.receive()[0])
            shown.append(frames)
        assert killed._failures == 1
    assert np.array_equal(*shown)


# Configuration


def test_what_is_measured_without_distractions_keeps_its_hash():
    assert make_protocol(compose([f"task={CARTPOLE}"]))["hash"] == "ca30d93be0a8"
    assert envs.protocol(CARTPOLE, distraction="", distraction_split="evaluation") == envs.protocol(CARTPOLE)
    assert not any(name.startswith("distraction") for name in env_settings(compose([f"task={CARTPOLE}"])))


def test_a_protocol_tells_the_distraction_and_on_which_split_it_is_measured():
    config = compose([f"task={CARTPOLE}", "env.distraction=color+video:my/davis"])
    told = make_protocol(config)
    assert told["distraction"] == "color+video:my/davis"
    assert told["distraction_split"] == "evaluation"
    others = [
        make_protocol(compose([f"task={CARTPOLE}", *words.split()]))["hash"]
        for words in (
            "env.distraction=color",
            "env.distraction=color env.distraction_intensity=hard",
            "env.distraction=color env.distraction_dynamic=false",
            "env.distraction=camera",
        )
    ]
    assert len({told["hash"], *others, "ca30d93be0a8"}) == 6


@pytest.mark.gl
def test_evaluation_plays_the_other_split():
    config = compose([f"task={CARTPOLE}", "env.distraction=color", "env.overlap=false", "evaluation.workers=1"])
    (judge,) = make_judges(config, 1)
    size = config.env.image_size
    wanted, other = (
        make(CARTPOLE, "color", image_size=size, distraction_split=split) for split in ("evaluation", "train")
    )
    frame = judge.reset(3)[0]
    assert np.array_equal(frame, wanted.reset(seed=3)[0])
    assert not np.array_equal(frame, other.reset(seed=3)[0])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("task=toy/reach env.distraction=color", r"env\.distraction is always '' in toy/reach, got 'color'"),
        ("task=atari/pong env.distraction=color", r"env\.distraction is always '' in atari/pong"),
        (f"task={CARTPOLE} preset=state env.distraction=color", r"^env\.distraction='color' .*env\.obs=state has none"),
        (f"task={CARTPOLE} env.distraction=colors", r"env\.distraction='colors' is none of color, camera"),
        (
            f"task={CARTPOLE} env.distraction_intensity=hard",
            "has no effect with env.distraction=: set env.distraction,",
        ),
        (f"task={CARTPOLE} env.distraction=camera env.camera=-1", r"set env\.camera=0"),
    ],
    ids=lambda value: "-".join(word.partition("=")[2] for word in value.split() if "=" in word),
)
def test_a_configuration_refuses_what_nothing_would_show(words, told):
    with pytest.raises(ConfigError, match=told):
        compose(words.split())


def test_the_three_kinds_join_in_any_order():
    for kinds in itertools.permutations(("color", "camera", "video:a+b")):
        assert compose([f"task={CARTPOLE}", f"env.distraction={'+'.join(kinds)}"]).env.distraction == "+".join(kinds)


def test_a_run_is_played_under_another_distraction():
    run = compose([f"task={CARTPOLE}", "env.distraction=color+camera", "env.distraction_dynamic=false"])
    assert _distracted(run, None, None) == run

    def told(distraction, intensity):
        env = _distracted(run, distraction, intensity).env
        return env.distraction, env.distraction_intensity, env.distraction_dynamic

    assert told("none", None) == ("", "easy", True)
    assert told("color", "hard") == ("color", "hard", False)
    assert told(None, "medium") == ("color+camera", "medium", False)
    with pytest.raises(ConfigError, match=r"'colour' is none of color, camera"):
        told("colour", None)
    with pytest.raises(ConfigError, match=r"is always '' in toy/reach"):
        _distracted(compose(["task=toy/reach"]), "color", None)
