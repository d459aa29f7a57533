"""Train with convolutions of one's own; scaling, head, shapes and options come with the base class."""

from dataclasses import dataclass

from torch import nn

from curl_rl.config.overrides import compose
from curl_rl.nn.encoders import Encoder
from curl_rl.options import option
from curl_rl.run.trainer import train


@dataclass(frozen=True)
class PooledConfig:
    name: str = "pooled"
    feature_dim: int = option(50, "width of the features", at_least=1)
    filters: int = option(16, "filters of each convolution", at_least=1)


class Pooled(Encoder):
    """Two 3x3 convolutions, each halved by taking maxima."""

    Config = PooledConfig

    def layers(self, config: PooledConfig) -> nn.Module:
        first = nn.Sequential(nn.Conv2d(self.obs_shape[0], config.filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        second = nn.Sequential(nn.Conv2d(config.filters, config.filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        return nn.Sequential(first, second)


def main() -> None:
    """Train with the encoder above."""
    own = ["encoder=own_encoder:Pooled", "encoder.filters=8"]
    train(compose(["task=toy/reach", *own, "budget_frames=300", "run_dir=runs/own_encoder"]))


if __name__ == "__main__":
    main()
