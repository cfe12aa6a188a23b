"""Delegation chains: on whose behalf an agent acts, with what authority, proven by every hop's signature."""
