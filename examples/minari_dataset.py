"""Make a Minari dataset of an .npz file that `curl-rl record` wrote: pip install "minari[hdf5]"."""

import argparse
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import minari  # pyright: ignore[reportMissingImports]
import numpy as np
from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]


def episodes_of(arrays: dict[str, np.ndarray]) -> list[EpisodeBuffer]:
    """Return a recording's episodes as Minari holds them: frames, and what was done and got between them."""
    found = list[EpisodeBuffer]()
    for start, stop in pairwise([0, *(np.flatnonzero(arrays["ends"]) + 1)]):
        steps, terminated = slice(start, stop - 1), arrays["terminated"][start + 1 : stop]
        last = np.arange(stop - start - 1) == stop - start - 2
        found.append(
            EpisodeBuffer(
                observations=list(arrays["frames"][start:stop]),
                actions=list(arrays["actions"][steps]),
                rewards=list(arrays["rewards"][steps]),
                terminations=list(terminated),
                truncations=list(last & ~terminated),
            )
        )
    return found


def main() -> None:
    """Write the dataset where MINARI_DATASETS_PATH says, frames as they are: Minari's own default is JPEG.

    Discrete actions are as many as the recording shows.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path, help=".npz file")
    parser.add_argument("name", help="such as reach/agent-v0")
    arguments = parser.parse_args()
    with np.load(arguments.recording) as file:
        arrays = {name: file[name] for name in file.files}
    actions = arrays["actions"]
    whole = actions.dtype.kind in "iu"
    dataset = minari.create_dataset_from_buffers(
        arguments.name,
        buffer=episodes_of(arrays),
        observation_space=gym.spaces.Box(0, 255, arrays["frames"].shape[1:], np.uint8),
        action_space=gym.spaces.Discrete(int(actions.max()) + 1) if whole else gym.spaces.Box(-1, 1, actions.shape[1:]),
        jpeg_encoding=False,
    )
    print(f"{arguments.name}: {dataset.total_episodes} episodes, {dataset.total_steps} steps")


if __name__ == "__main__":
    main()
