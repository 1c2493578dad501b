"""Machines and how to run on them: site profiles, validation of requests, batch scripts."""
