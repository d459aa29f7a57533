"""Train agents from pixels with encoders that learn by contrast."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curl_rl.representation.classifier import load_classifier
    from curl_rl.representation.distil import Distiller
    from curl_rl.representation.export import load_encoder
    from curl_rl.representation.finetune import Finetuner
    from curl_rl.representation.frames import frames_of
    from curl_rl.representation.index import FrameIndex
    from curl_rl.representation.pretrain import Pretrainer
    from curl_rl.representation.tap import Tap
    from curl_rl.representation.unknowns import Incremental, Recogniser

__version__ = "0.1.0"
__all__ = [
    "Distiller",
    "Finetuner",
    "FrameIndex",
    "Incremental",
    "Pretrainer",
    "Recogniser",
    "Tap",
    "__version__",
    "frames_of",
    "load_classifier",
    "load_encoder",
]

_PLACES = {
    "Distiller": "distil",
    "Finetuner": "finetune",
    "FrameIndex": "index",
    "Incremental": "unknowns",
    "Pretrainer": "pretrain",
    "Recogniser": "unknowns",
    "Tap": "tap",
    "frames_of": "frames",
    "load_classifier": "classifier",
    "load_encoder": "export",
}


def __getattr__(name: str) -> Any:
    """Import torch only when a name needs it, so that `import curl_rl` and the command line stay quick."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"curl_rl.representation.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
