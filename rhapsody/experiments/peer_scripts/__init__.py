"""Scripts that drive one system each, in an environment of its own: they import the standard library and it alone."""
