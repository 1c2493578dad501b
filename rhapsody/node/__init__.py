"""The agent on every node of a job, the `ssh` that talks to it, and what keeps hold of processes."""
