"""Agents, found by name: a class in any module of this folder is an option of `agent=`."""

from curl_rl.options import Registry

AGENTS = Registry(
    "agent",
    __name__,
    gives=("discrete", "reports_priorities", "networks", "act", "update", "state_dict", "load_state_dict"),
    options=("averaging", "capture", "n_step", "discount", "learning_rate", "pace", "precision"),
)
