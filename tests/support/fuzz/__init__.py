"""Hostile inputs for every parser: what reads them, what they start from, who judges the outcome."""
