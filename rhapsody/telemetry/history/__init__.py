"""What earlier sessions of a run did, for one that goes on with it."""
