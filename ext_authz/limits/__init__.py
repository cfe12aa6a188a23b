"""How often callers may call: counters in this process."""
