"""Graphs of recorded linear maps, and how they are rewritten before they run."""
