"""Stacks of convolutions, and how a CPU computes them in few passes over its memory."""

from typing import Any

import torch
from torch import Tensor, nn

_FUSED = torch.backends.mkldnn.is_available()


class ConvStack(nn.Sequential):
    """Convolutions without padding, each followed by a ReLU, from (filters, kernel, stride) triples."""

    def __init__(self, channels: int, specs: list[tuple[int, int, int]]):
        layers: list[nn.Module] = []
        for filters, kernel, stride in specs:
            layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU(inplace=True)]
            channels = filters
        super().__init__(*layers)

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        return [layer for layer in self if isinstance(layer, nn.Conv2d)]

    def of_pixels(self, pixels: Tensor, *, tiled: bool) -> Tensor:
        """Return the map (B, c, h, w), contiguous in float32, of pixels from 0 to 255 in the precision to compute in.

        Args: pixels (B, C, H, W), or where `tiled` the windows of the first convolution (B, C * k * k, h, w).
        """
        first, *others = self.convolutions
        weight, stride = first.weight / 255, first.stride[0]  # a thousandth of the pixels to divide
        if tiled:
            weight, stride = weight.flatten(1)[:, :, None, None], 1
        x = conv_relu(pixels, weight, first.bias, stride)
        for conv in others:
            x = conv_relu(x, conv.weight, conv.bias, conv.stride[0])
        return _Contiguous.apply(x)


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Return the ReLU of a convolution in the precision of x (B, C, H, W), channels last."""
    if _FUSED and x.device.type == "cpu" and bias is not None:
        return _ConvRelu.apply(x, weight, bias, stride)
    return torch.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), stride).relu()


class _ConvRelu(torch.autograd.Function):
    """Both in one operation of oneDNN: in bf16 a ReLU of its own takes longer than the convolution.

    Its ReLU makes zeros of what is no number; a head, which gradients reach first, tells of those.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        weight, ctx.stride = weight.to(x.dtype), [stride, stride]
        options = [0, 0], ctx.stride, [1, 1], 1, "relu", [], ""
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias.to(x.dtype), *options)
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, y = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, y, 0)
        wanted = [ctx.needs_input_grad[0], True, True]
        shape = [len(weight)], ctx.stride, [0, 0], [1, 1], False, [0, 0], 1, wanted
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(grad, x, weight, *shape)
        return to_x, to_weight.float(), to_bias.float(), None


class _Contiguous(torch.autograd.Function):
    """To float32 and channels first in one pass, and back in one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return x.to(torch.float32, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.to(ctx.dtype, memory_format=torch.channels_last)
