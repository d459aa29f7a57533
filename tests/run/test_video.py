"""A film holds the pictures that it was given, in the format that its name says, and replaces nothing else."""

import os
import resource
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curl_rl.run.files import WriteError
from curl_rl.run.video import Film, check_film, filming
from curl_rl.types import ConfigError

BLACK = np.zeros((4, 4, 3), np.uint8)


def film(path: Path, frames: Iterable[np.ndarray], fps: float = 25) -> None:
    with filming(path, fps) as camera:
        for frame in frames:
            camera.add(lambda frame=frame: frame)


def two_halves(height: int, width: int) -> np.ndarray:
    frames = np.empty((4, height, width, 3), np.uint8)
    frames[:, : height // 2] = (200, 40, 40)
    frames[:, height // 2 :] = np.array([20, 90, 160, 230])[:, None, None, None]
    return frames


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(84, 84, 4), (100, 100, 3), (85, 85, 4), (301, 401, 2), (256, 256, 1)]
)
def test_mp4_is_read_back(tmp_path: Path, height: int, width: int, scale: int):
    import av

    frames = two_halves(height, width)
    film(tmp_path / "videos" / "out.mp4", frames)
    with av.open(str(tmp_path / "videos" / "out.mp4")) as container:
        (stream,) = container.streams.video
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert back.shape == (4, height * scale, width * scale, 3)
    assert np.abs(back[:, 4, 4].astype(int) - (200, 40, 40)).max() < 12
    assert np.abs(back[:, -4, -4].astype(int) - frames[:, -1, -1]).max() < 12
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["out.mp4"]


def test_gif_is_read_back(tmp_path: Path):
    frames = two_halves(84, 84)
    film(tmp_path / "videos" / "OUT.GIF", frames)
    with Image.open(tmp_path / "videos" / "OUT.GIF") as image:
        assert (image.format, image.size, getattr(image, "n_frames", 1)) == ("GIF", (336, 336), 4)
        assert image.info["duration"] == 40
        for index, frame in enumerate(frames):
            image.seek(index)
            back = np.asarray(image.convert("RGB"))
            assert np.abs(back[4::4, 4::4].astype(int) - frame[1:, 1:]).max() < 12
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["OUT.GIF"]


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_long_film_takes_the_memory_of_a_short_one(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("curl_rl.run.video._GIF_PICTURES", 16)

    def most(length: int) -> int:
        tracemalloc.start()
        film(tmp_path / f"{length}.{kind}", (np.full((64, 64, 3), step % 256, np.uint8) for step in range(length)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(4)  # what is imported at the first film
    assert most(160) < 1.5 * most(16) + 100_000  # its frames alone take 2 MB, 31 MB enlarged


@pytest.mark.parametrize("name", ["x.avi", "x", "x.mp4.txt", "x.png", ".gif"])
def test_other_formats_are_refused_by_name(tmp_path: Path, name: str):
    for attempt in (check_film, lambda path: film(path, [BLACK])):
        with pytest.raises(ConfigError, match=rf"no film can be written as .*{name}: .* ends in \.mp4 or \.gif"):
            attempt(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["mp4", "gif"])
@pytest.mark.parametrize("what", ["a folder", "a link", "a pipe"])
def test_nothing_but_a_regular_file_becomes_a_film(tmp_path: Path, kind: str, what: str):
    path = tmp_path / f"x.{kind}"
    {"a folder": path.mkdir, "a link": lambda: path.symlink_to("y"), "a pipe": lambda: os.mkfifo(path)}[what]()
    before = path.lstat()
    for attempt in (check_film, lambda path: film(path, [BLACK])):
        with pytest.raises(WriteError, match=f"{what} is in the way"):
            attempt(path)
    assert path.lstat().st_mode == before.st_mode
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_film_that_fails_leaves_what_was_there(tmp_path: Path, kind: str):
    def broken(picture: np.ndarray | None) -> None:
        with filming(tmp_path / f"out.{kind}", 25) as camera:
            if picture is not None:
                camera.add(lambda: picture)
            raise OSError("the renderer is lost")

    for before in ([], ["out." + kind]):
        for picture in (None, BLACK):
            with pytest.raises(OSError, match=r"^the renderer is lost$"):
                broken(picture)
            assert [path.name for path in tmp_path.iterdir()] == before
        film(tmp_path / f"out.{kind}", [BLACK])
    for frames in ([], [BLACK.astype(np.float32)], [BLACK[:, :, :1]]):
        with pytest.raises(ValueError, match=r"at least one|expected frames"):
            film(tmp_path / f"out.{kind}", frames)
        assert [path.name for path in tmp_path.iterdir()] == ["out." + kind]


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, kind: str):
    noise = np.random.default_rng(0).integers(256, size=(8, 64, 64, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*: File too large; free space"):
            film(tmp_path / f"out.{kind}", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"cannot write into .*file is a file, no folder"):
        film(tmp_path / "file" / "out.mp4", [BLACK])


def test_mp4_without_pyav_names_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'av.*or name a .gif"):
        film(tmp_path / "out.mp4", [BLACK])
    assert list(tmp_path.iterdir()) == []


def test_a_long_film_keeps_a_few_pictures_evenly_spaced():
    film = Film(limit=8)
    for step in range(1000):
        film.add(lambda step=step: np.array(step))
    assert 4 <= len(film.frames) < 8
    assert [int(picture) for picture in film.frames] == list(range(0, 1000, film.stride))
