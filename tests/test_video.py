"""A film holds the pictures that it was given, in the format that its name says."""

import sys
from pathlib import Path

import numpy as np
import pytest

from curl_rl.video import write_mp4


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(84, 84, 4), (100, 100, 3), (85, 85, 4), (301, 401, 2), (256, 256, 1)]
)
def test_mp4_is_read_back(tmp_path: Path, height: int, width: int, scale: int):
    import av

    frames = np.empty((4, height, width, 3), np.uint8)
    frames[:, : height // 2] = (200, 40, 40)
    frames[:, height // 2 :] = np.array([20, 90, 160, 230])[:, None, None, None]
    write_mp4(tmp_path / "videos" / "out.mp4", frames, fps=25)
    with av.open(str(tmp_path / "videos" / "out.mp4")) as container:
        (stream,) = container.streams.video
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert back.shape == (4, height * scale, width * scale, 3)
    assert np.abs(back[:, 4, 4].astype(int) - (200, 40, 40)).max() < 12
    assert np.abs(back[:, -4, -4].astype(int) - frames[:, -1, -1]).max() < 12
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["out.mp4"]


def test_mp4_without_pyav_names_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RuntimeError, match="pip install 'av"):
        write_mp4(tmp_path / "out.mp4", np.zeros((1, 4, 4, 3), np.uint8), 10)
