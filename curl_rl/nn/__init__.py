"""Tensors only: encoders, augmentations, networks, losses."""
