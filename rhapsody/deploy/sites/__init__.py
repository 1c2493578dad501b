"""Profiles of sites: what is known of machines, and who says so."""
