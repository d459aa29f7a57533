"""What a run is asked to do: schema, overrides, and what the papers fix for a suite."""
