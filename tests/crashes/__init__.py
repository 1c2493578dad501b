"""A campaign that is killed everywhere, and what is left of it then."""
