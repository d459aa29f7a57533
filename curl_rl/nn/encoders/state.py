"""What stands for an encoder where there are no pixels."""

from dataclasses import dataclass

from torch import Tensor, nn

from curl_rl.nn.encoders.base import Encoder
from curl_rl.options import option


@dataclass(frozen=True)
class StateConfig:
    name: str = "state"
    feature_dim: int = option(256, "width of the features", at_least=1)


class StateEncoder(Encoder):
    """State observations (B, D) float32 to features: the upper-bound control without pixels."""

    Config = StateConfig
    pixels = False

    def layers(self, config: StateConfig) -> nn.Module:
        return nn.Identity()

    def make_head(self) -> nn.Module:
        width = self.conv_shape[0]
        return nn.Sequential(nn.Linear(width, self.feature_dim), nn.LayerNorm(self.feature_dim), nn.Tanh())

    def scale(self, obs: Tensor) -> Tensor:
        """Return the observations as they are, (B, D)."""
        return obs.float()
