"""Which canonical action a request is."""
