"""Whether a machine is fit for runs."""
