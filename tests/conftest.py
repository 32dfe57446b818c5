"""Settings of the whole test run, made before anything is imported."""

import os

# Small batches gain nothing from a second thread, and threads that wait for one another on a busy
# machine take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
