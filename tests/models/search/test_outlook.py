"""What is said at the end of a search, from results by hand."""

from ondevice.models.search.frontier import Frontier
from ondevice.models.search.goal import Goal
from ondevice.models.search.outlook import outlook
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial, TrialResult


def results(*aucs, size=50):
    trial = Trial({"user": TableDesign()})
    full = TrialResult(trial, 1000, 0, 20, 1100, 0.8, 0.8, (0.79, 0.81), 60.0)
    others = [
        TrialResult(trial, size, 0, 20, size + 100, auc, auc, (auc - 0.01, auc + 0.01), 60.0)
        for auc in aucs
    ]
    return Frontier(full, (full, *others))


def test_plans_are_named_with_their_price():
    frontier = results(0.70, 0.71)
    lines = outlook(Goal(budget=60), frontier, frontier.results[2], ["a", "b"])
    assert lines[0] == "not tried yet: a; b"
    assert lines[1] == (
        "a model took 60 s on average: 2 of these would take about 2.0 min (--trials 5)"
    )
    assert "the share of the full model's to +- " in lines[2]


def test_the_last_gains_are_what_more_is_judged_by():
    goal = Goal(budget=60)
    for aucs, said in (
        ((0.70, 0.71, 0.71, 0.72, 0.72, 0.73), "raised the validation AUC within the size by 0.03"),
        ((0.73, 0.71, 0.71, 0.72, 0.72, 0.73), "did not raise the validation AUC"),
        ((0.70, 0.71, 0.71, 0.72, 0.73), "the first model that meets the goal is among the last"),
    ):
        frontier = results(*aucs)
        text = " ".join(outlook(goal, frontier, goal.choose(frontier), ["a"]))
        assert said in text
    frontier = results(0.79, 0.79, 0.79, 0.79, 0.79, 0.79)
    loss = Goal(max_auc_loss=0.02)
    text = " ".join(outlook(loss, frontier, loss.choose(frontier), ["a"]))
    assert "no smaller within the loss" in text


def test_an_end_and_an_interruption():
    frontier = results(0.70)
    best = frontier.results[1]
    done = " ".join(outlook(Goal(budget=60), frontier, best, []))
    assert "has tried all that it knows" in done and "--round-epochs" in done
    stopped = " ".join(outlook(Goal(budget=60), frontier, best, [], finished=False))
    assert "a further hour is about 60 more" in stopped and "tried all" not in stopped


def test_bytes_left_unused_are_explained():
    goal = Goal(budget=200)
    trial = Trial({"user": TableDesign()})
    full, small, large = (
        TrialResult(trial, count, 0, 20, count + 100, auc, auc, (auc - 0.01, auc + 0.01), 60.0)
        for count, auc in ((1000, 0.8), (100, 0.75), (198, 0.74))
    )
    text = " ".join(outlook(goal, Frontier(full, (full, small, large)), small, []))
    assert "takes 100 B of the 200 B that it may: more bytes did not help on this log" in text
    assert (
        "the best of those tried from 105 B on" in text
        and "takes 198 B" in text
        and "0.7400" in text
    )
    text = " ".join(outlook(goal, Frontier(full, (full, small)), small, []))
    assert "the search has tried none of 105 B or more within that" in text
    text = " ".join(outlook(goal, Frontier(full, (full, large)), large, []))
    assert "that it may" not in text
