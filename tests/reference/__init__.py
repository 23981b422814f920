"""Plain reference implementations: slow, independent, and what the parity tests compare with."""
