"""The replay and the samplers that draw from it."""
