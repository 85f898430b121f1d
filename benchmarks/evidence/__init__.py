"""Questions of our own that decided a default or a design."""
