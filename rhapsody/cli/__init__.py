"""The command `rhapsody`: parse, call, print. The only place that knows click."""
