"""Batch scripts: what they are made from, and their text."""
