"""What a search would still try, and what a further hour might give, judged by its results."""

from __future__ import annotations

from collections.abc import Sequence

from ondevice.models.search.frontier import Frontier
from ondevice.models.search.goal import Goal
from ondevice.models.search.trial import TrialResult
from ondevice.text_table import size

HOUR = 3600.0
# The gain of so many of the last trials is what more trials are judged by.
RECENT = 5
# A model that takes less of its budget than this is said to leave bytes unused.
USED = 0.95


def outlook(
    goal: Goal,
    frontier: Frontier,
    best: TrialResult | None,
    left: Sequence[str],
    finished: bool = True,
) -> list[str]:
    """Sentences for the end of a search.

    Args:
        goal: of the search.
        frontier: its results in the order in which they were measured.
        best: the chosen one.
        left: what the search would try next, in words.
        finished: whether it ended by itself; otherwise what is left is not known.
    """
    results = frontier.results
    seconds = sum(result.seconds for result in results) / len(results)
    if left:
        trained = sum(not result.trial.is_refit for result in results)
        more = min(len(left), max(1, int(HOUR / max(seconds, 0.1))))
        lines = [
            f"not tried yet: {'; '.join(left)}",
            f"a model took {_duration(seconds)} on average: {more} of these would take about "
            f"{_duration(more * seconds)} (--trials {trained + more})",
        ]
    elif not finished:
        hour = max(1, int(HOUR / max(seconds, 0.1)))
        lines = [
            f"a model took {_duration(seconds)} on average: a further hour is about {hour} more, "
            "as long as the search has plans"
        ]
    else:
        lines = [
            "the search has tried all that it knows for this goal: a further hour of it gives "
            "nothing; --round-epochs 2 or another --seed might"
        ]
    if (left or not finished) and best is not None and len(results) > RECENT:
        lines.append(_trend(goal, frontier))
    if best is not None and best.test_error:
        lines.append(
            f"on these test rows an AUC is known to +- {best.test_error:.4f}, and the share of the "
            f"full model's to +- {100 * frontier.share_error(best):.2f} % (one standard error, "
            "bootstrap): smaller differences mean little"
        )
    if best is not None and (unused := _unused(goal, frontier, best)):
        lines.append(unused)
    return lines


def _unused(goal: Goal, frontier: Frontier, best: TrialResult) -> str:
    """Why the chosen model leaves much of its budget unused; empty if it does not."""
    most = goal.most_bytes(frontier.reference)
    used = best.bytes(goal.measure)
    if most is None or used >= USED * most:
        return ""
    larger = [
        result for result in frontier.results if used / USED < result.bytes(goal.measure) <= most
    ]
    text = f"the best model takes {size(used)} of the {size(most)} that it may"
    if not larger:
        return f"{text}: the search has tried none of {size(int(used / USED))} or more within that"
    rival = max(larger, key=lambda result: result.validation_auc)
    return (
        f"{text}: more bytes did not help on this log (the best of those tried from "
        f"{size(int(used / USED))} on takes {size(rival.bytes(goal.measure))} and has a validation "
        f"AUC of {rival.validation_auc:.4f}, this one {best.validation_auc:.4f})"
    )


def _trend(goal: Goal, frontier: Frontier) -> str:
    """What the last trials changed, and so what more of them might."""
    before, after = (
        goal.choose(Frontier(frontier.reference, tuple(part), frontier.measure))
        for part in (frontier.results[:-RECENT], frontier.results)
    )
    if after is None:
        return f"none of the last {RECENT} models met the goal"
    if before is None:
        return (
            f"the first model that meets the goal is among the last {RECENT}: more trials may well "
            "find better ones"
        )
    if goal.max_auc_loss is not None:
        saved = before.bytes(goal.measure) - after.bytes(goal.measure)
        if saved <= 0:
            return (
                f"the last {RECENT} models were no smaller within the loss: expect little of more"
            )
        return f"the last {RECENT} models saved {size(saved)}; more of them may save less"
    gain = after.validation_auc - before.validation_auc
    if gain <= 0:
        return (
            f"the last {RECENT} models did not raise the validation AUC within the size: expect "
            "little of more trials of this kind"
        )
    return (
        f"the last {RECENT} models raised the validation AUC within the size by {gain:.4f}; as "
        "many more may add less than that, since the most promising came first"
    )


def _duration(seconds: float) -> str:
    """Seconds or minutes in words."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
