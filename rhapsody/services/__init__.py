"""Parts of a run that stay: services, and where they can be reached."""
