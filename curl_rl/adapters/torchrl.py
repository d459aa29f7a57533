"""An exported encoder as a module of TorchRL's, on tensordict alone: TorchRL itself need not be there."""

from pathlib import Path

from torch import Tensor, nn

from curl_rl.representation.export import ExportedEncoder, own_encoder

try:
    from tensordict.nn import TensorDictModule
except ImportError as error:
    raise ImportError("curl_rl.adapters.torchrl needs tensordict: pip install 'curl-rl[torchrl]'") from error


class CurlFeatures(TensorDictModule):
    """Read observations (*, k*C, H, W) uint8 of a tensordict and write features (*, feature_dim) float32 into it.

        policy = TensorDictSequential(CurlFeatures("enc"), TensorDictModule(net, ["features"], ["action"]))

    Its batch may have any number of dimensions, none too. `ToTensorImage` would make floats of images: leave it out.

    Args: encoder, an exported folder or a loaded encoder, which is copied; in_key and out_key, where it reads and
    writes, which may be nested; freeze, keep weights and running statistics as they are, whatever `train()` says.

    Raises ValueError, which names the mend, for observations that do not fit the encoder.
    """

    def __init__(
        self,
        encoder: str | Path | ExportedEncoder,
        *,
        in_key: str | tuple[str, ...] = "pixels",
        out_key: str | tuple[str, ...] = "features",
        freeze: bool = True,
    ):
        owned = own_encoder(encoder, freeze=freeze)
        super().__init__(_AnyBatch(owned), in_keys=[in_key], out_keys=[out_key])
        self.feature_dim = owned.feature_dim


class _AnyBatch(nn.Module):
    """An encoder of batches of any number of dimensions."""

    def __init__(self, encoder: ExportedEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, obs: Tensor) -> Tensor:
        dims = len(self.encoder.obs_shape)
        if obs.dim() < dims:
            self.encoder.check(tuple(obs.shape))
        batch, shape = obs.shape[:-dims], obs.shape[-dims:]
        return self.encoder(obs.reshape(batch.numel(), *shape)).reshape(*batch, self.encoder.feature_dim)
