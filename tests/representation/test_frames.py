"""Frames from every source: against a naive twin, a run's own replay, and what is refused with which words."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL
from test_tap import words
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from curl_rl.config.overrides import compose
from curl_rl.representation.frames import frames_of
from curl_rl.representation.frames.base import Frames, numbered
from curl_rl.run.assembly import make_environment, make_replay
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.stored import load_config
from curl_rl.run.trainer import train
from curl_rl.types import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "reach"
    assert train(compose([*SMALL, f"run_dir={folder}", "device=cpu", "threads=1", "env.overlap=false"])) == 0
    return folder


def episodes(lengths=(4, 1, 3), **fields) -> Frames:
    """Every pixel is 10 times the frame's episode and its age in it; action and reward are its number."""
    count = sum(lengths)
    values = torch.tensor([10 * e + age for e, length in enumerate(lengths) for age in range(length)])
    images = values.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    known = {"action": torch.arange(count), "reward": torch.arange(count).float(), "episode": numbered(lengths)}
    return Frames(images, source="the test", ordered=True, **{**known, **fields})


def shown(obs: Tensor) -> list[list[int]]:
    return obs[..., 0, 0].tolist()


def test_stacks_and_futures_end_where_episodes_do():
    frames = episodes(stack=3)
    ids = torch.tensor([0, 2, 3, 4, 5, 7])
    batch = frames.batch(ids, horizon=2)
    assert shown(batch.obs) == [[0, 0, 0], [0, 1, 2], [1, 2, 3], [10, 10, 10], [20, 20, 20], [20, 21, 22]]
    assert shown(batch.next_obs) == [[0, 0, 1], [1, 2, 3], [1, 2, 3], [10, 10, 10], [20, 20, 21], [20, 21, 22]]
    assert batch.future is not None
    assert batch.future.mask.tolist() == [
        [True, True],
        [True, False],
        [False] * 2,
        [False] * 2,
        [True] * 2,
        [False] * 2,
    ]
    assert shown(batch.future.obs[0]) == [[0, 0, 1], [0, 1, 2]]
    assert shown(batch.future.obs[1]) == [[1, 2, 3], [1, 2, 3]]
    assert batch.future.action[0].tolist() == [0, 1]
    assert batch.future.reward[:2].tolist() == [[0, 1], [2, 0]]
    assert batch.action.tolist() == ids.tolist()
    assert batch.index.tolist() == ids.tolist()
    assert batch.episode.tolist() == [0, 0, 0, 1, 2, 2]
    assert shown(episodes(stack=3, padding="zero").obs(ids[:2])) == [[0, 0, 0], [0, 1, 2]]
    assert shown(episodes(stack=3, padding="zero").obs(ids[4:])) == [[0, 0, 20], [20, 21, 22]]


def test_what_is_not_given_is_zero_and_not_claimed():
    frames = Frames(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), source="the test")
    assert frames.gives == frozenset()
    batch = frames.batch(torch.tensor([1, 4]), horizon=1)
    assert (batch.labels, batch.classes) == (None, None)
    assert batch.reward.tolist() == [0, 0]
    assert batch.future is not None
    assert not batch.future.mask.any()
    assert (frames.name(3), frames.episode(3), frames.action_dim, frames.discrete) == ("3", 3, 0, False)
    assert episodes().gives == {"order", "episodes", "actions", "rewards"}


def test_only_frames_that_others_follow_teach_what_comes_next():
    frames = episodes()
    assert frames.usable({"order"}).tolist() == [0, 1, 2, 5, 6]
    assert frames.usable({"map", "episodes"}).tolist() == list(range(8))


@pytest.mark.parametrize("seed", range(5))
def test_a_split_never_divides_an_episode(seed):
    frames = episodes(lengths=(5, 1, 3, 2, 4, 6, 1, 1, 2, 3))
    first, second = frames.split(0.3, seed=seed)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(28))
    assert not set(frames.episodes[first].tolist()) & set(frames.episodes[second].tolist())
    assert len(set(frames.episodes[second].tolist())) == 3
    again = frames.split(0.3, seed=seed)
    assert all(torch.equal(*pair) for pair in zip((first, second), again, strict=True))


def test_a_split_takes_of_each_class_its_share():
    classes = torch.tensor([0] * 20 + [1] * 10 + [2] * 10 + [-1] * 10)
    frames = Frames(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), source="the test", classes=classes)
    _, second = frames.split(0.2)
    assert [(classes[second] == each).sum().item() for each in (0, 1, 2, -1)] == [4, 2, 2, 2]
    with pytest.raises(ConfigError, match="a split of the test leaves no frame of class rare: give more"):
        Frames(
            torch.zeros(12, 1, 2, 2, dtype=torch.uint8),
            source="the test",
            classes=torch.tensor([0] * 11 + [1]),
            class_names=["usual", "rare"],
        ).split(0.2)
    with pytest.raises(ConfigError, match="the test has 1 episodes, too few to leave some out"):
        episodes(lengths=(8,)).split(0.5)


def test_a_run_gives_what_its_replay_does(run_dir):
    frames, config = frames_of(run_dir), load_config(run_dir)
    assert frames.gives == {"order", "episodes", "actions", "rewards"}
    env = make_environment(config)
    replay = make_replay(config, env, CPU)
    env.close()
    state = Checkpoints(run_dir / "checkpoints").load(replay)
    assert state is not None
    replay.load_state_dict(state["replay"])
    assert len(frames) == replay.written
    sampled = replay.sample(64, np.random.default_rng(0), 1, 0.99)
    batch = frames.batch(sampled.index)
    for name in ("obs", "action", "next_obs"):
        assert torch.equal(getattr(batch, name), getattr(sampled, name)), name
    torch.testing.assert_close(batch.reward, sampled.reward)
    alike = batch.episode[:, None] == batch.episode
    assert torch.equal(alike, sampled.episode[:, None] == sampled.episode)


def test_a_run_is_only_read(run_dir):
    def state():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(run_dir.rglob("*")) if p.is_file()}

    before = state()
    assert len(frames_of(run_dir, stack=2)) > 300
    assert state() == before


def picture(path: Path, value: int = 0, *, size=(6, 5), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(Image.new(mode, (1, 1)).getbands())).save(path)
    return path


def test_a_folder_of_images_keeps_its_names(tmp_path):
    for i in (1, 2, 10):
        picture(tmp_path / "b" / f"shot{i}.png", i)
    picture(tmp_path / "a" / "x.PNG", 7)
    (tmp_path / "notes.txt").write_text("no image")
    frames = frames_of(tmp_path)
    assert [frames.name(i) for i in range(4)] == ["a/x.PNG", "b/shot1.png", "b/shot2.png", "b/shot10.png"]
    assert frames.frame_shape == (3, 5, 6)
    assert frames.newest(torch.arange(4))[:, 0, 0, 0].tolist() == [7, 1, 2, 10]
    assert frames.gives == frozenset()  # folders are no classes and no episodes unless asked
    ordered = frames_of(str(tmp_path), order="name", classes="folder", stack=2)
    assert ordered.gives == {"order", "episodes", "classes"}
    assert shown(ordered.obs(torch.arange(4))[:, ::3]) == [[7, 7], [1, 1], [1, 2], [2, 10]]
    assert (ordered.classes.tolist(), ordered.class_names) == ([0, 1, 1, 1], ("a", "b"))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("1", 1), ("CMYK", 3)])
def test_any_number_of_channels(tmp_path, mode, channels):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    Image.new(mode, (4, 4)).save(tmp_path / f"x{suffix}")
    assert frames_of(tmp_path).frame_shape == (channels, 4, 4)
    assert frames_of(tmp_path, size=8, channels=3).frame_shape == (3, 8, 8)


def test_bad_images_are_named_and_left_out_only_when_asked(tmp_path, capsys):
    for name in ("a", "c", "d"):
        picture(tmp_path / f"{name}.png", 5)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ConfigError, match=r"b\.png: it cannot be read \(.*\): mend or remove it, or give skip_bad=true"
    ):
        frames_of(tmp_path)
    picture(tmp_path / "d.png", 5, size=(7, 5))
    assert [frames_of(tmp_path, skip_bad=True).name(i) for i in range(2)] == ["a.png", "c.png"]
    told = capsys.readouterr().err
    assert "left out" in told
    assert "b.png: it cannot be read" in told
    assert "d.png: it is 3x5x7 (channels, height, width) and" in told
    assert "a.png is 3x5x6: give size=64, say, to make all alike" in told


def test_a_video_is_an_episode_in_order(tmp_path):
    path = tmp_path / "play.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = frames_of(path, every=3, stack=2)
    assert [frames.name(i) for i in range(len(frames))] == ["play.mp4#0", "play.mp4#3", "play.mp4#6", "play.mp4#9"]
    assert frames.gives == {"order", "episodes"}
    level = frames.newest(torch.arange(4)).float().mean((1, 2, 3))
    torch.testing.assert_close(level, torch.tensor([0.0, 60.0, 120.0, 180.0]), atol=6, rtol=0)
    assert frames_of(path, size=16, channels=1).frame_shape == (1, 16, 16)


def recording(path: Path, count: int = 6, **fields) -> Path:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 8, 8, 3), np.uint8)
    np.savez(path, **{"frames": images, **fields})
    return path


def test_recordings_give_what_they_hold(tmp_path):
    ends = np.array([False, False, True, False, False, True])
    known = {"actions": np.arange(6), "ends": ends, "classes": np.array([0, 0, 1, 1, -1, 0])}
    extra = {"labels": np.ones((6, 2, 2), np.uint8), "states": np.zeros((6, 4)), "state_names": list("abcd")}
    recording(tmp_path / "a.npz", **known, **extra)
    recording(tmp_path / "b.npz", **known, **extra)
    frames = frames_of(tmp_path, stack=2)
    assert frames.gives == {"order", "episodes", "actions", "classes", "labels", "states"}
    assert frames.episodes.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert (frames.obs_shape, frames.state_names, frames.discrete, frames.action_dim) == (
        (6, 8, 8),
        tuple("abcd"),
        True,
        6,
    )
    assert shown(frames.obs(torch.tensor([3, 4, 6]))[:, ::3]) == [[3, 3], [3, 4], [0, 0]]
    assert frames.name(7) == "b.npz#1"
    alone = frames_of(recording(tmp_path / "a.npz", actions=np.zeros((5, 2)), rewards=np.ones(5)))
    assert alone.gives == {"order", "episodes", "actions", "rewards"}
    assert alone.reward is not None
    assert alone.reward.tolist() == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": np.zeros((6, 3, 8, 8), np.float32)}, r"has frames \(6, 3, 8, 8\) float32: give"),
        ({"actions": np.zeros((4, 2))}, "has 4 actions for 6 frames: give one each"),
        ({"classes": np.zeros(6)}, "has classes of type float64: give whole numbers$"),
        ({"actions": np.array(list("abcdef"))}, "has actions of type <U1: give whole numbers or floats"),
        ({"obs": np.zeros(6)}, "holds obs: a recording holds frames, and may hold ends"),
        ({"rewards": np.array([None] * 6)}, "cannot be read .*: record it again, without pickled objects"),
    ],
    ids=words,
)
def test_recordings_that_cannot_be_used(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        frames_of(recording(tmp_path / "a.npz", **fields))


def test_recordings_must_be_alike(tmp_path):
    recording(tmp_path / "a.npz")
    recording(tmp_path / "b.npz", rewards=np.zeros(6))
    with pytest.raises(ConfigError, match=r"b\.npz and .*a\.npz differ in having rewards: record all alike"):
        frames_of(tmp_path)
    recording(tmp_path / "b.npz", frames=np.zeros((6, 3, 9, 9), np.uint8))
    with pytest.raises(ConfigError, match=r"b\.npz has frames of 3x9x9 and .*a\.npz of 3x8x8"):
        frames_of(tmp_path)


class Pairs(Dataset):
    classes = ("cat", "dog")

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 2


def test_any_dataset_of_images_or_pairs():
    images = torch.randint(256, (5, 3, 8, 7), dtype=torch.uint8)
    arrays = [np.asarray(image.permute(1, 2, 0)) for image in images]
    for given in (images, arrays, [Image.fromarray(array) for array in arrays]):
        frames = frames_of(Pairs(given))
        assert torch.equal(frames.newest(torch.arange(5)), images)
        assert (frames.classes.tolist(), frames.class_name(1)) == ([0, 1, 0, 1, 0], "dog")
    assert frames_of(list(images)).gives == frozenset()
    assert frames_of(Pairs([array[..., 0] for array in arrays]), size=4).frame_shape == (1, 4, 4)
    wide = torch.randint(256, (4, 9, 8, 8), dtype=torch.uint8)
    assert torch.equal(frames_of(list(wide)).newest(torch.arange(4)), wide)
    resized = frames_of(list(wide), size=4).newest(torch.arange(4))
    for channel in range(9):  # each as if it were alone
        alone = frames_of(list(wide[:, channel : channel + 1]), size=4).newest(torch.arange(4))
        assert torch.equal(resized[:, channel : channel + 1], alone)
    with pytest.raises(ConfigError, match=r"list\[0\]: it has 9 channels, of which channels=3 cannot be made$"):
        frames_of(list(wide), channels=3)
    with pytest.raises(
        ConfigError, match=r"float32, whose scale is not known: give uint8.*leave scaling to the encoder$"
    ):
        frames_of(list(torch.rand(3, 3, 8, 8)), skip_bad=True)  # which are not bad but of another kind
    short = Pairs(images)
    short.classes = ("cat",)
    with pytest.raises(ConfigError, match="has a class 1 and 1 names of classes: name all"):
        frames_of(short)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (list(torch.rand(3, 3, 8, 8)), r"list\[0\]: it is of float32, whose scale is not known: give uint8, as torchv"),
        (list(torch.zeros(3, 8, dtype=torch.uint8)), r"list\[0\]: it has the shape \(8,\)"),
        (["a", "b"], r"list\[0\]: it is str: give images as tensors"),
        ([(np.zeros((4, 4), np.uint8), "cat")], r"list\[0\]: its class is str: give pairs \(image, whole number\)"),
        ([np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8)], r"list\[1\]: it is 1x5x4 .* list\[0\] is 1x4x4"),
        ([], "list has no item: give images"),
        (
            list(torch.zeros(2, 9, 8, 3, dtype=torch.uint8)),
            r"list\[0\]: it is a tensor .* channels last: give item.per",
        ),
        ([np.zeros((3, 9, 8), np.uint8)], r"list\[0\]: it is an array .* channels first: give torch.from_numpy"),
        ([(np.zeros((4, 4), np.uint8), 0), np.zeros((4, 4), np.uint8)], r"list\[1\] has no class, and others have"),
    ],
    ids=words,
)
def test_datasets_that_cannot_be_used(items, message):
    with pytest.raises(ConfigError, match=message):
        frames_of(items)


def test_a_dataset_of_tensors_has_no_classes_of_its_own():
    assert frames_of(TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))).gives == set()
    assert frames_of(TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([1, 0, 1, 1]))).gives == {
        "classes"
    }


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: p / "nothing", {}, "there is no .*nothing: give a run, a folder of images"),
        (lambda p: p, {}, "has no frames: give a run, a folder of images, a video, recordings"),
        (lambda p: picture(p / "x.png"), {}, r"x\.png has no frames: give a run, a folder"),
        (lambda p: [picture(p / "x.png"), recording(p / "y.npz")][0].parent, {}, "has images and recordings: give a f"),
        (lambda p: 7, {}, "no frames can be read of int: give a run"),
        (lambda p: picture(p / "x.png").parent, {"order": "date"}, "order is 'name' or nothing, got 'date'"),
        (lambda p: picture(p / "x.png").parent, {"stack": 2}, "has no order, so 2 frames make no stack"),
        (lambda p: picture(p / "x.png").parent, {"size": -1}, "size must be at least 0 and at most 4096, got -1"),
        (
            lambda p: picture(p / "x.png").parent,
            {"channels": 5},
            r"channels must be one of 0 \(as they are\), 1, 2, 3, 4",
        ),
        (lambda p: picture(p / "x.png").parent, {"every": 2}, "every would have no effect on the images in"),
        (
            lambda p: recording(p / "y.npz"),
            {"order": "name", "size": 9},
            "order and size would have no effect on the rec",
        ),
        (lambda p: [torch.zeros(1, 2, 2, dtype=torch.uint8)], {"stack": 2}, "stack would have no effect on list"),
    ],
    ids=words,
)
def test_sources_that_have_no_frames(tmp_path, make, options, message):
    with pytest.raises(ConfigError, match=message):
        frames_of(make(tmp_path), **options)


def test_images_of_more_than_eight_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ConfigError, match=r"deep\.png: it has pixels of mode I;16, more than eight bits: save it with"):
        frames_of(tmp_path)


def test_a_run_that_is_no_use(tmp_path, run_dir):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_bytes((run_dir / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="has no replay on disk yet: let it come to its first checkpoint"):
        frames_of(tmp_path)
    with pytest.raises(ConfigError, match="size would have no effect on the run"):
        frames_of(run_dir, size=32)


def test_reading_frames_loads_no_simulator():
    code = (
        "import sys, curl_rl.representation.frames; print(sorted({'dm_control', 'ale_py', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
