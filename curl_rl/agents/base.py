"""What every agent's options have in common; agents themselves share functions and the learner, no base class."""

from dataclasses import dataclass, field

from curl_rl.nn.augmentations import Averaging
from curl_rl.objectives.learner import Pace
from curl_rl.options import LONGEST, option


@dataclass(frozen=True)
class AgentConfig:
    """Options that a run reads of any agent; a subclass gives the defaults that its algorithm has."""

    averaging = None  # the two that an agent of one's own may have as options, as AugmentedConfig has
    capture = False
    name: str = ""
    n_step: int = option(1, "rewards summed before the bootstrap", at_least=1, at_most=LONGEST)
    discount: float = option(0.99, "per agent step", above=0, at_most=1)
    learning_rate: float = option(1e-3, "of encoder, agent and objective", above=0)
    encoder_tau: float = option(0.001, "weight of new parameters in the target encoder", above=0, at_most=1)
    precision: str = option(
        "float32", "of the convolutions; auto: bf16 where the CPU has it", one_of=("auto", "float32", "bf16")
    )

    @property
    def pace(self) -> Pace:
        """How fast the learner learns."""
        return Pace(self.learning_rate, self.learning_rate, self.encoder_tau)


@dataclass(frozen=True)
class AugmentedConfig(AgentConfig):
    """Options of an agent whose own loss averages over augmentations, and whose update may be a CUDA graph."""

    averaging: Averaging = field(default_factory=Averaging)
    capture: bool = option(False, "replay the update as a CUDA graph")
