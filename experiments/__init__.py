"""Entry points: flags in, library calls, results out."""

import os

# XLA keeps the cores busy itself; LAPACK's own threads only wait for each other (a triangular solve
# of 64 rows takes 16 us on one thread and 10 ms on several). Read when LAPACK is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
