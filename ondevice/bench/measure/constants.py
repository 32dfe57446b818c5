"""The constants of a measurement: the C runner and the Java library have them too, by name.

tests/commands/test_constants.py compares the three languages by value.
"""

from __future__ import annotations

# Number of different requests that take turns: lookups must not find the last request's rows in
# the processor's caches.
REQUESTS = 64
# Number of requests before memory is read: enough that every buffer has been used.
MEMORY_REQUESTS = 100
# Nanoseconds of warm-up, or the length of the measurement where that is shorter: clocks of phones
# need some tenths of a second to rise.
WARM_UP_NS = 200_000_000
# Number of bursts of a process; the scatter of their medians shows how steady a figure is.
BURSTS = 10
# Requests of a burst at least, however slow one is: a median of one is no median.
MIN_BURST_REQUESTS = 2
# Requests of a process at most: enough for a 99th percentile, few enough to print.
MAX_REQUESTS = 50_000
# Requests of a burst with pauses, where a second holds only ten requests ...
PACED_BURST_REQUESTS = 3
# ... and the number of such bursts at least.
MIN_PACED_BURSTS = 2
# Requests under emulation: their time is not reported.
EMULATED_REQUESTS = 20
# Requests of a profile at most: each costs a time for every operator.
PROFILE_REQUESTS = 2000
# Calls that do nothing, in each of the BURSTS that measure what timing itself costs.
OVERHEAD_BURST_CALLS = 100
# How far `rank` may be from `predict` where a file has no test vectors, which say so: as far as
# dense layers of int8 bring it.
RANK_TOLERANCE = 2e-2
# Rows to draw requests from where a file has no test vectors.
RANDOM_ROWS = 256
# Rows of a request at most: larger batches are training's, and their buffers fill a phone.
MAX_ROWS = 1_000_000
# Times the time budget for requests with pauses, which take most of their time waiting.
PACED_BUDGET = 3
# Seconds of a measurement, and between two requests, at most: a day.
MAX_SECONDS = 86_400

# What is measured unless the user says otherwise: rows of a request, milliseconds between
# requests (0: back to back), seconds for each kind of request, processes for each measurement.
DEFAULT_ROWS = (1, 128)
DEFAULT_GAPS_MS = (0.0, 100.0)
DEFAULT_SECONDS = 1.0
DEFAULT_PROCESSES = 5

# Bytes read from a file of /proc or /sys at most, and sensors listed at most.
MAX_SYSTEM_FILE = 1 << 16
MAX_SENSORS = 32
# Programs that run another processor's code, by the start of their names.
EMULATORS = ("qemu-", "box64", "box86", "FEX")
# Significant digits of the numbers of a report: more than any timer gives.
REPORT_DIGITS = 7
