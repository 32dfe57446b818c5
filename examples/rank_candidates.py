"""Ranks candidates for one user with a native model file, and times it.

python examples/rank_candidates.py [MODEL.odm]

Without a model it takes that of `make demo`. Needs numpy only, so it runs on a Raspberry Pi as is.
"""

import statistics
import sys
import time

import numpy as np

import ondevice

CANDIDATES, REQUESTS = 200, 500


def main(path: str) -> None:
    """Score 200 candidates for one user, print the best five and the time of a request."""
    model = ondevice.load(path)
    print(f"{path}: engine {model.engine}, inputs {', '.join(spec.name for spec in model.inputs)}")

    rng = np.random.default_rng(0)
    user = {"user": [1], "hour": [21], "device": [0]}
    items = {
        "item": rng.integers(0, 50_000, CANDIDATES).tolist(),
        "seller": rng.integers(0, 20_000, CANDIDATES).tolist(),
        "category": rng.integers(0, 500, CANDIDATES).tolist(),
    }
    # raw values become IDs once: a catalogue's IDs can be kept between requests
    context, candidates = model.features.encode(user), model.features.encode(items)

    scores = model.rank(context, candidates)
    for place in np.argsort(-scores)[:5]:
        print(f"item {items['item'][place]:6d}  {scores[place]:.4f}")

    seconds = []
    for _ in range(REQUESTS):
        start = time.perf_counter()
        model.rank(context, candidates)
        seconds.append(time.perf_counter() - start)
    print(f"{CANDIDATES} candidates: median {1e6 * statistics.median(seconds):.0f} us")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo-out/model.odm")
