"""Train agents from pixels with encoders that learn by contrast."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curl_rl.representation.export import load_encoder

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Import torch only when the encoder is asked for, so that `import curl_rl` and the command line stay quick."""
    if name == "load_encoder":
        from curl_rl.representation.export import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
