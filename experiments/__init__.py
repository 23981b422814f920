"""Entry points: flags in, library calls, results out."""
