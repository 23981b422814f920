"""What `experiments.benchmark` measures; it needs the repository's tests, so no wheel has it."""
