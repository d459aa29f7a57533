"""Stacks of convolutions, and how a CPU computes them in few passes over its memory."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curl_rl.nn.beside import begin

_FUSED = torch.backends.mkldnn.is_available()


@functools.cache
def has_bf16() -> bool:
    """Return whether oneDNN has instructions for bf16 on this processor."""
    return _FUSED and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _wide(x: Tensor) -> Tensor:
    """Return what oneDNN can convolve here: bf16 in float32 where the processor has no instructions for it."""
    return x.float() if x.dtype == torch.bfloat16 and not has_bf16() else x


class ConvStack(nn.Sequential):
    """Convolutions, each followed by a ReLU, from (filters, kernel, stride, and where there is some, padding)."""

    def __init__(self, channels: int, specs: Sequence[tuple[int, ...]]):
        layers: list[nn.Module] = []
        for filters, kernel, stride, *padding in specs:
            layers += [nn.Conv2d(channels, filters, kernel, stride, sum(padding)), nn.ReLU(inplace=True)]
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
        weight = first.weight / 255  # a thousandth of the pixels to divide
        stride, padding = first.stride[0], int(first.padding[0])
        if tiled:
            weight, stride, padding = weight.flatten(1)[:, :, None, None], 1, 0
        x = conv_relu(pixels, weight, first.bias, stride, padding)
        for conv in others:
            x = conv_relu(x, conv.weight, conv.bias, conv.stride[0], int(conv.padding[0]))
        return _Contiguous.apply(x)


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int = 0) -> Tensor:
    """Return the ReLU of a convolution in the precision of x (B, C, H, W), channels last."""
    if _FUSED and x.device.type == "cpu" and bias is not None:
        return _ConvRelu.apply(x, weight, bias, (stride, padding))
    return torch.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), stride, padding).relu()


class _ConvRelu(torch.autograd.Function):
    """Both in one operation of oneDNN: in bf16 a ReLU of its own takes longer than the convolution.

    Its ReLU makes zeros of what is no number; a head, which gradients reach first, tells of those.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, place: tuple[int, int]) -> Tensor:
        weight, (ctx.stride, ctx.padding) = weight.to(x.dtype), ([each, each] for each in place)
        options = ctx.padding, ctx.stride, [1, 1], 1, "relu", [], ""
        parts = (_wide(part) for part in (x, weight, bias.to(x.dtype)))
        y = torch.ops.mkldnn._convolution_pointwise(*parts, *options).to(x.dtype)
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients of x, weight and bias; those of the parameters are begun beside that of x."""
        x, weight, y = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, y, 0)
        shape = [len(weight)], ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1
        parts = [_wide(part) for part in (grad, x, weight)]

        def gradients(*wanted: bool) -> Any:
            return torch.ops.aten.convolution_backward(*parts, *shape, wanted)

        parameters = begin(lambda: gradients(False, True, True))
        to_x = gradients(True, False, False)[0].to(x.dtype) if ctx.needs_input_grad[0] else None
        _, to_weight, to_bias = parameters()
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
