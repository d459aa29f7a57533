"""Agents, found by name."""

from curl_rl.agents.sac import Sac

AGENTS = {cls.Config().name: cls for cls in (Sac,)}
