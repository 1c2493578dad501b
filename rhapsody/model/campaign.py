"""The campaign file, as a module: what all parts must agree on."""

from __future__ import annotations

CAMPAIGN_MODULE = "rhapsody_campaign"
"""Its name: other processes of the campaign know it, no others do."""
