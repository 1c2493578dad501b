"""Runtimes that execute tasks, one module or folder each, and what they share: the worker pool of a node."""
