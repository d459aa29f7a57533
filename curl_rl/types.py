"""The words that every part shares: batches, views, clocks, and the protocols of what can act and what can be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from curl_rl import Error

if TYPE_CHECKING:  # benchmarks and reports share these words without loading torch
    import gymnasium as gym
    import numpy as np
    from torch import Tensor


class Future(NamedTuple):
    """What followed each transition of a batch, for objectives with a horizon K."""

    obs: Tensor  # (B, K, k*C, H, W) uint8: observations 1 to K agent steps later
    action: Tensor  # (B, K, A) float32 or (B, K) int64: those from step j to step j + 1
    reward: Tensor  # (B, K) float32: what each of these actions gave by itself, 0 where the mask is False
    mask: Tensor  # (B, K) bool: whether step j + 1 is of the same episode, its last frame included, and known yet


class Batch(NamedTuple):
    """Sampled transitions, all on the training device."""

    obs: Tensor  # (B, k*C, H, W) uint8, or (B, D) float32 for state observations
    action: Tensor  # (B, A) float32, or (B,) int64 for discrete actions
    reward: Tensor  # (B,) float32, n-step and discounted
    discount: Tensor  # (B,) float32: gamma^m, 0 where terminated
    next_obs: Tensor  # as obs, m steps later
    weight: Tensor  # (B,) float32 importance weights
    index: Tensor  # (B,) int64 replay slots  # pyright: ignore[reportIncompatibleMethodOverride]
    episode: Tensor  # (B,) int64, alike for transitions of one episode
    future: Future | None = None  # for objectives with a horizon
    labels: Tensor | None = None  # (B, s, s) uint8 classes of the newest frame's cells, 0 for background, if asked for
    classes: Tensor | None = None  # (B,) int64 of whole frames, -1 where unknown


class Crop(NamedTuple):
    """Cropped images and where they were cut."""

    images: Tensor  # (B, C, h, w) uint8
    offsets: Tensor  # (B, 2) int64: its top row and left column in the uncropped image, negative beyond its border


class Views(NamedTuple):
    """Two independent crops of the same observations."""

    query: Crop
    key: Crop


Images: TypeAlias = "tuple[Tensor, ...]"  # of one kind, a batch each
Metrics: TypeAlias = "dict[str, Tensor]"


class UpdateResult(NamedTuple):
    """What one gradient update reports; tensors stay on the device until they are written."""

    metrics: Metrics
    priorities: Tensor | None = None  # (B,) new priorities, None without prioritised replay


class Shapes(NamedTuple):
    """What a head must know of the encoder and the actions to size itself."""

    feature_dim: int
    conv: tuple[int, ...]  # (c, h, w) of the encoder's convolutional map, (D,) for state observations
    action_dim: int  # or how many discrete actions there are
    discrete: bool = False
    image_size: int = 0  # side of the uncropped frames
    cells: tuple[float, float] | None = None  # of the map: the middle of the first one's view, and from one to the next


class Clock(NamedTuple):
    """The three counts of a run: agent decisions, simulator frames, gradient updates."""

    agent_step: int = 0
    frame: int = 0
    update: int = 0


class Episode(NamedTuple):
    """One finished evaluation episode."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    score: float  # undiscounted return
    length: int  # agent steps


class Origin(NamedTuple):
    """What every evaluation row says of where it comes from, so that results cannot be mixed up."""

    protocol: str  # hash of what the environment measures
    budget: str  # with its unit: "100000 frames"
    commit: str  # with a plus where files differed from it; "unknown" of a checkout, empty for an installed package
    versions: str  # "python=3.11.7 torch=2.13.0 ..."
    hardware: str  # cores that the run could use, and its GPUs


class Stateful(Protocol):
    """Anything whose state a checkpoint keeps: nested dicts and lists of tensors and plain Python."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


class Features(Protocol):
    """What an objective may ask of an encoder."""

    def conv(self, obs: Tensor) -> Tensor: ...

    def __call__(self, obs: Tensor) -> Tensor: ...


class Seeing(Protocol):
    """What can be looked at of a learner."""

    @property
    def encoder(self) -> Callable[[Tensor], Tensor]: ...

    def whole(self, images: Tensor) -> Tensor:
        """Return images (n, k*C, H, W), or states (n, D), as acting shows them to the encoder."""
        ...

    def snapshot(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return named batches of stacked frames (B, k*C, h, w) uint8 worth looking at: query and key views."""
        ...


class Acting(Protocol):
    """What plays."""

    def act(self, obs: np.ndarray, *, explore: bool) -> np.ndarray:
        """Choose actions for a batch of stacked observations (n, k*C, H, W) or (n, D)."""
        ...


class Agent(Acting, Stateful, Protocol):
    """What the trainer drives; it sees no replay and no logger.

    Its class says besides: its `Config` with the `pace` of its learner, whether it is `discrete` and
    `reports_priorities`, and the `networks` that it trains beside its learner.
    """

    n_step: int  # of the returns that it wants now
    discount: float

    @property
    def learner(self) -> Seeing: ...

    def update(self, batch: Batch) -> UpdateResult: ...


class Environment(Protocol):
    """An environment whose step is sent and received apart, so that several can run at once."""

    observation_space: gym.Space
    action_space: gym.Space

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]: ...

    def send(self, action: Any) -> None: ...

    def receive(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]: ...

    def render(self) -> np.ndarray: ...

    def close(self) -> None: ...


class ConfigError(Error, ValueError):
    """A setting that cannot be honoured; the message names the mend."""
