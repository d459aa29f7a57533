"""Agents, found by name."""

from curl_rl.agents.rainbow import Rainbow
from curl_rl.agents.sac import Sac
from curl_rl.options import by_name

AGENTS: dict[str, type[Sac] | type[Rainbow]] = by_name("agent", (Sac, Rainbow))
