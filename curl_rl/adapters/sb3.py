"""An exported encoder as features extractor of stable-baselines3's agents."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import torch
from torch import Tensor, nn

from curl_rl.representation.export import ExportedEncoder, blank_encoder, load_encoder, raw_frames, read_description

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:
    raise ImportError("curl_rl.adapters.sb3 needs stable-baselines3: pip install 'curl-rl[sb3]'") from error


_CARRIED = "curl_rl_encoders"  # attribute of an observation space


class _Carried(dict[str, dict[str, Any]]):
    """What encoders are, by the folders that they were loaded from.

    It travels with the observation space, which is all of an extractor's arguments that SB3 saves beside the weights
    and that an extractor can add to: so a saved agent is built again where the folder is gone, or holds another.
    """

    saved = False  # whether it comes out of a file, so that weights follow

    def __reduce__(self) -> tuple[Any, ...]:
        return _out_of_a_file, (dict(self),)

    def __deepcopy__(self, _: Any) -> Self:
        return type(self)(self)


def _out_of_a_file(descriptions: dict[str, dict[str, Any]]) -> _Carried:
    carried = _Carried(descriptions)
    carried.saved = True
    return carried


def _taken(encoder: str | Path | ExportedEncoder, space: gym.Space) -> tuple[ExportedEncoder, bool]:
    """Return an extractor's own encoder, and whether it is blank: a saved agent's, whose weights follow."""
    if isinstance(encoder, ExportedEncoder):
        return copy.deepcopy(encoder), False
    name, carried = os.fspath(encoder), vars(space).setdefault(_CARRIED, _Carried())
    if carried.saved and name in carried:
        return blank_encoder(carried[name], f"the saved agent's {name}").to_empty(device="cpu"), True
    loaded = load_encoder(name)
    carried[name] = read_description(Path(name))
    return loaded, False


def _filled(extractor: "CurlFeatures", _: Any) -> None:
    extractor._is_blank = False


class CurlFeatures(BaseFeaturesExtractor):
    """Encode image observations (k*C, H, W) uint8 with an exported encoder; a `features_extractor_class` of SB3.

        SAC("CnnPolicy", env, policy_kwargs=dict(
            features_extractor_class=CurlFeatures, features_extractor_kwargs=dict(encoder="enc/", freeze=True)))

    Args: encoder, an exported folder or a loaded encoder, of which each extractor takes its own copy; freeze, keep the
    weights and running statistics as they are; normalize_images, what the policy was given under that name: by default
    SB3 divides images by 255 and this undoes it exactly. Raises ValueError where the observations do not fit the
    encoder. A saved agent holds all that it needs: `SAC.load` does not read the folder again.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        encoder: str | Path | ExportedEncoder,
        *,
        freeze: bool = True,
        normalize_images: bool = True,
    ):
        loaded, is_blank = _taken(encoder, observation_space)
        shape = observation_space.shape
        if shape is None or observation_space.dtype != "uint8":
            raise ValueError(f"CurlFeatures encodes one uint8 image space, got {observation_space}")
        loaded.check(shape)
        super().__init__(observation_space, loaded.feature_dim)
        self.encoder = loaded.freeze(freeze)
        self.normalize_images = normalize_images
        self._is_blank = is_blank
        self.register_load_state_dict_post_hook(_filled)

    def forward(self, observations: Tensor) -> Tensor:
        if self._is_blank:
            raise ValueError("this extractor's encoder has no weights yet: load the saved agent's, or use a new space")
        return self.encoder(self._raw(observations))

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        # SB3's on-policy agents re-initialise their features extractor through here (ortho_init), which would replace
        # the trained weights by random ones without a word.
        return self

    def _raw(self, observations: Tensor) -> Tensor:
        """Return SB3's float images as the uint8 frames they were. Raises ValueError where the scale is not as told."""
        if self.normalize_images:
            try:
                return raw_frames(observations)
            except ValueError as error:
                raise ValueError(
                    f"{error}; where the policy does not divide, give CurlFeatures normalize_images=False too"
                ) from error
        if (observations != observations.round()).any():
            raise ValueError("these images are divided by 255: give the policy normalize_images=False too")
        return observations.to(torch.uint8)
