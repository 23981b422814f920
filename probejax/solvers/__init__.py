"""Batched convex solvers; every fit carries a certificate."""
