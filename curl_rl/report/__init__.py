"""Turns the tables of runs into those, the figures and the page of a report."""
