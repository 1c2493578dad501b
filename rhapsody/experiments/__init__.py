"""The experiments behind the published figures, each repeatable with `rhapsody bench NAME`."""
