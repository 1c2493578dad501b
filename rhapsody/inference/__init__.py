"""Requests to models: a router over replicas, one URL in front of them, and a stand-in engine without a model."""
