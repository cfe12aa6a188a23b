"""What a policy amounts to, for its authors: nothing here is asked when a request is decided."""
