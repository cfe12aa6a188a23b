"""State that outlives a process and that several processes share."""
