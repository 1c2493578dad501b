"""A request against the rules of a site, and what the site makes of it."""
