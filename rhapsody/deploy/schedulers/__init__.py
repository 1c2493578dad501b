"""The commands of batch systems: submit a job, look at it, send it a signal, cancel it."""
