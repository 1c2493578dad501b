"""What happened in a run: the journal of all events, and what is folded from it."""
