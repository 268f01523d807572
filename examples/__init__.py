"""Workflows to run and to read."""
