"""The session: the public façade, and the only place where the parts are wired together."""
