"""The Dragon runtime: a warden keeps it, a head program inside it starts workers; see docs/dragon.md."""
