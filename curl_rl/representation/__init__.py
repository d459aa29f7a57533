"""The encoder without an agent."""
