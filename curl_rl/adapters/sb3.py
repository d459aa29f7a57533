"""An exported encoder as features extractor of stable-baselines3's agents."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Self

import gymnasium as gym
import torch
from torch import Tensor, nn

from curl_rl.export import ExportedEncoder, load_encoder

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:
    raise ImportError("curl_rl.adapters.sb3 needs stable-baselines3: pip install 'curl-rl[sb3]'") from error


class CurlFeatures(BaseFeaturesExtractor):
    """Encode image observations (k*C, H, W) uint8 with an exported encoder; a `features_extractor_class` of SB3.

        SAC("CnnPolicy", env, policy_kwargs=dict(
            features_extractor_class=CurlFeatures, features_extractor_kwargs=dict(encoder="enc/", freeze=True)))

    Args: encoder, an exported folder or a loaded encoder, of which each extractor takes its own copy; freeze, keep the
    weights as they are; normalize_images, what the policy was given under that name: by default SB3 divides images by
    255 and this undoes it exactly. Raises ValueError where the observations do not fit the encoder.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        encoder: str | Path | ExportedEncoder,
        *,
        freeze: bool = True,
        normalize_images: bool = True,
    ):
        loaded = copy.deepcopy(encoder) if isinstance(encoder, ExportedEncoder) else load_encoder(encoder)
        shape = observation_space.shape
        if shape is None or observation_space.dtype != "uint8":
            raise ValueError(f"CurlFeatures encodes one uint8 image space, got {observation_space}")
        loaded.check(shape)
        super().__init__(observation_space, loaded.feature_dim)
        self.encoder = loaded.requires_grad_(not freeze)
        self.normalize_images = normalize_images

    def forward(self, observations: Tensor) -> Tensor:
        return self.encoder(self._raw(observations))

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        # SB3's on-policy agents re-initialise their features extractor through here (ortho_init), which would replace
        # the trained weights by random ones without a word.
        return self

    def _raw(self, observations: Tensor) -> Tensor:
        """Return SB3's float images as the uint8 frames they were. Raises ValueError where the scale is not as told."""
        if self.normalize_images:
            if (observations > 1).any():
                raise ValueError("these images are not divided by 255: give CurlFeatures normalize_images=False too")
            observations = (observations * 255).round()  # x / 255 * 255 in float32 is within 2e-5 of x
        elif (observations != observations.round()).any():
            raise ValueError("these images are divided by 255: give the policy normalize_images=False too")
        return observations.to(torch.uint8)
