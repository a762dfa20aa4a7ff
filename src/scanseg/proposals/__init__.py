"""Proposal generators: one file each."""
