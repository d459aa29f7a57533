"""Agents, found by name."""

from curl_rl.agents.rainbow import Rainbow
from curl_rl.agents.sac import Sac

AGENTS: dict[str, type[Sac] | type[Rainbow]] = {cls.Config().name: cls for cls in (Sac, Rainbow)}
