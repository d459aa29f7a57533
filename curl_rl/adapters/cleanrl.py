"""An exported encoder as the network of an agent that is one file, as CleanRL's are."""

from pathlib import Path

from torch import Tensor, nn

from curl_rl.representation.export import ExportedEncoder, own_encoder, raw_frames


class CurlFeatures(nn.Module):
    """Images (B, k*C, H, W) to features (B, feature_dim) float32, in the place of an agent's own convolutions.

        self.network = CurlFeatures("enc")
        self.actor = layer_init(nn.Linear(self.network.feature_dim, actions), std=0.01)
        ...
        hidden = self.network(x / 255.0)

    Images are uint8, or floats that were divided by 255, which become the same uint8 again; states are float32.

    Args: encoder, an exported folder or a loaded encoder, which is copied; freeze, keep weights and running statistics
    as they are, whatever `train()` says.

    Raises ValueError, which names the mend, for observations that do not fit the encoder.
    """

    def __init__(self, encoder: str | Path | ExportedEncoder, *, freeze: bool = True):
        super().__init__()
        self.encoder = own_encoder(encoder, freeze=freeze)
        self.feature_dim = self.encoder.feature_dim

    def forward(self, x: Tensor) -> Tensor:
        images = x.is_floating_point() and len(self.encoder.obs_shape) == 3
        return self.encoder(raw_frames(x) if images else x)
