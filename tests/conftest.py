"""Settings of the whole test run, made before anything is imported."""

import importlib.util
import os

# Small batches gain nothing from a second thread, and threads that wait for one another on a busy
# machine take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # The same examples in every run, but in `make fuzz`: chance must not decide whether a run
    # passes. No deadline, as a machine may be busy.
    fixed = "ONDEVICE_FUZZ_SEED" not in os.environ
    settings.register_profile("ondevice", derandomize=fixed, deadline=None)
    settings.load_profile("ondevice")
