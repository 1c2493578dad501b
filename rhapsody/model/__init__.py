"""What tasks, resources, policies, allocations and events are. Nothing here does I/O."""
