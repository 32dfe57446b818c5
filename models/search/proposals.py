"""What a search tries next: designs of its probes near the goal, networks, tails, a curve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ondevice.models.search.goal import Goal
from ondevice.models.search.measure import Measure, RowMap
from ondevice.models.search.probe import Point
from ondevice.models.search.size_fitter import Network, SizeFitter, networks
from ondevice.models.search.table_design import HASH_BLOCKS, TableDesign, Tail
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.training.distillation import Distillation

# Sizes tried for the curve once the goal is met, as times smaller than the reference.
CURVES: dict[Measure, tuple[float, ...]] = {
    "tables": (10.0, 100.0, 1000.0, 30.0, 300.0),
    "file": (3.0, 10.0, 30.0, 5.0),
}
# Share of a table's bytes that is given to a hashed tail where one is tried.
TAIL_SHARE = 0.1
# The first network tried takes at most this share of a file's budget, without its header.
NETWORK_SHARE = 0.25
# Epochs in which a network whose units were cut trains on.
PRUNED_EPOCHS = 3
# Within a loss, each size tried is this share of the smallest that holds.
SMALLER = 0.7
HASHED = "binary codes of hashes for all values"  # what such a plan is called
CODED = "binary codes of the values' places by frequency"
VOCABULARY: RowMap = "vocabulary"
# Full models that teach the best design; they are trained once for all searches in a folder.
TEACHERS = Distillation(folds=4, seeds=1)


@dataclass(frozen=True)
class Plan:
    """A trial to run.

    Attributes:
        what: it tries, in a few words.
        trial: its settings.
        most: bytes it must not exceed, of what the goal measures; None for any.
    """

    what: str
    trial: Trial
    most: int | None = None


@dataclass(frozen=True)
class Descent:
    """The designs of one probe, and the folder name of the whole model behind it."""

    width: int
    probe: str
    points: list[Point]


class Proposals:
    """The plans of a search; they depend on the results so far.

    Args:
        goal: of the search.
        descents: of its probes.
        results: by the name of a trial's folder, the reference first; read whenever a plan is made.
        fitter: makes trials of a size.
    """

    def __init__(
        self,
        goal: Goal,
        descents: list[Descent],
        results: Mapping[str, TrialResult],
        fitter: SizeFitter,
    ) -> None:
        self._goal, self._descents, self._results = goal, descents, results
        self._fitter, self._base = fitter, fitter.base
        self._reference = next(iter(results.values()))
        self._networks = (
            networks(self._base.hidden)
            if goal.measure == "file"
            else (Network(self._base.hidden, self._base.dense),)
        )

    def plans(self) -> Iterator[Plan]:
        """All plans, the most promising first."""
        most = self._goal.most_bytes(self._reference)
        if most is None:
            yield from self._within_loss(self._goal.max_auc_loss or 0.0)
        else:
            yield from self._within_bytes(most)
        yield from self._curve()

    def smallest(self) -> int:
        """About the fewest bytes that the probes and networks reach."""
        return min(
            descent.points[-1].bytes + self._fitter.rest_of_file(descent.points, self._networks[-1])
            for descent in self._descents
        )

    def _within_bytes(self, most: int) -> Iterator[Plan]:
        """Designs of at most `most` bytes: of each width, of other networks, with hashed tails."""
        place = self._first_network(most)
        network = self._networks[place]
        count = 3 if self._goal.measure == "tables" else 2
        for descent in self._ranked(network, most)[:count]:
            trial = self._fitter.fitted(descent.points, descent.probe, network, most)
            if trial is not None:
                yield Plan(_words(descent, network, self._goal), trial, most)
        yield from self._bits_by_frequency(network, most)
        if self._goal.measure == "tables":
            yield from self._codes(network, most)
        trial = self._fitter.hashed(network, most)
        if trial is not None:
            yield Plan(HASHED, trial, most)
        if self._goal.measure == "file":
            yield from self._without_map(network, most)
            yield from self._other_networks(place, most)
        best = self._best(most)
        if best is not None:
            yield from self._distilled(best, most)
            yield from self._tails(most)

    def _distilled(self, best: TrialResult, most: int) -> Iterator[Plan]:
        """The best design, learning from full models' probabilities beside the labels."""
        trial = replace(
            best.trial, start="", pruned=False, epochs=self._base.epochs, distillation=TEACHERS
        )
        if best.trial.distillation is None:
            what = f"the best so far, taught by {TEACHERS.teachers} full models"
            yield Plan(what, trial, most)

    def _bits_by_frequency(self, network: Network, most: int) -> Iterator[Plan]:
        """One dimension, of frequent values in more bits than of rare ones."""
        for descent in self._descents:
            if descent.width == 1:
                trial = self._trial(descent, network, most, by_frequency=True)
                if trial is not None:
                    what = f"{_words(descent, network, self._goal)}, bits by frequency"
                    yield Plan(what, trial, most)

    def _codes(self, network: Network, most: int) -> Iterator[Plan]:
        """Codes of the values' places, where not even a bit is there for each value."""
        for descent in self._descents:
            trial = self._fitter.coded(network, descent.probe, most) if descent.width == 1 else None
            if trial is not None:
                yield Plan(CODED, trial, most)

    def _trial(
        self,
        descent: Descent,
        network: Network,
        most: int,
        row_map: RowMap = "vocabulary",
        *,
        by_frequency: bool = False,
    ) -> Trial | None:
        """A descent's designs within `most` bytes; bits by frequency need one dimension."""
        trial = self._fitter.fitted(descent.points, descent.probe, network, most, row_map=row_map)
        if trial is None or not by_frequency or descent.width > 1:
            return trial
        return self._fitter.with_bits_by_frequency(trial, descent.probe, most)

    def _without_map(self, network: Network, most: int) -> Iterator[Plan]:
        """The two best widths, whose values find their rows in cells and no vocabulary.

        What a vocabulary takes is left for rows and dimensions then.
        """
        for descent in self._ranked(network, most)[:2]:
            trial = self._fitter.fitted(
                descent.points, descent.probe, network, most, row_map="retrieval"
            )
            if trial is not None:
                what = f"{_words(descent, network, self._goal)}, without a vocabulary"
                yield Plan(what, trial, most)

    def _first_network(self, most: int) -> int:
        """The place of the largest network that leaves most of the budget to tables."""
        inputs = min(d.width for d in self._descents) * len(self._fitter.data.fields)
        share = NETWORK_SHARE * (most - self._fitter.header_bytes)
        fits = [item.weights(inputs) <= share for item in self._networks]
        return fits.index(True) if True in fits else len(fits) - 1

    def _other_networks(self, place: int, most: int) -> Iterator[Plan]:
        """Networks with fewer units, then with more, as long as that pays at the same size."""
        for step in (1, -1):
            number = place + step
            while 0 <= number < len(self._networks):
                best = self._best(most)
                plan = self._like(best, self._networks[number], most)
                if plan is None:
                    break
                yield plan
                after = self._best(most)
                if after is best:
                    break
                number += step
        best = self._best(most)
        if best is not None and best.trial.pruned:
            trial = replace(best.trial, start="", pruned=False, epochs=self._base.epochs)
            yield Plan("the same, trained from new", trial, most)

    def _like(self, best: TrialResult | None, network: Network, most: int) -> Plan | None:
        """Designs of the kind of `best` with another network; None if nothing fits.

        Units are cut from the probe's network, unless all values share rows, or the network has
        other layers: no probe has these.
        """
        if best is not None and _is_hashed(best.trial):
            hashed = self._fitter.hashed(network, most)
            return None if hashed is None else Plan(f"{HASHED}, {network}", hashed, most)
        row_map, by_frequency = VOCABULARY, False
        if best is None:
            ranked = self._ranked(network, most)
            if not ranked:
                return None
            descent = ranked[0]
        else:
            width = next(iter(best.trial.tables.values())).dim
            descent = next(item for item in self._descents if item.width == width)
            row_map, by_frequency = best.trial.map, _has_sections(best.trial)
        trial = self._trial(descent, network, most, row_map, by_frequency=by_frequency)
        if trial is None:
            return None
        if network.hidden != self._base.hidden and self._same_depth(network):
            trial = replace(trial, start=descent.probe, pruned=True, epochs=PRUNED_EPOCHS)
        return Plan(_words(descent, network, self._goal), trial, most)

    def _same_depth(self, network: Network) -> bool:
        """Whether units can be cut from the base's network to make it."""
        return len(network.hidden) == len(self._base.hidden)

    def _best(self, most: int, *, sections: bool = True) -> TrialResult | None:
        """The result of the highest validation AUC within `most` bytes; None if none is."""
        within = [
            result
            for result in self._results.values()
            if result.bytes(self._goal.measure) <= most
            and (sections or not _has_sections(result.trial))
        ]
        return max(within, key=lambda result: result.validation_auc, default=None)

    def _within_loss(self, loss: float) -> Iterator[Plan]:
        """Bisection along the probes' frontier for the smallest model within a loss."""
        points = _best_points([descent.points for descent in self._descents])
        lowest = self._reference.validation_auc - loss
        network = self._networks[0]
        low, high = -1, len(points)  # the first fails, the second holds
        # where the probes think the limit is; each probe's own best stands for no loss
        top = max(point.auc for point in points)
        middle = next(i for i, point in enumerate(points) if point.auc >= top - loss)
        while high - low > 1:
            point = points[middle]
            trial = replace(
                self._base, tables=point.designs, hidden=network.hidden, dense=network.dense
            )
            yield Plan(f"designs of {point.bytes:,} bytes", trial)
            result = self._result(trial)
            if result is None:
                return
            low, high = (low, middle) if result.validation_auc >= lowest else (middle, high)
            middle = (low + high) // 2
        yield from self._bits_within_loss(lowest, network)
        yield from self._smaller_networks(lowest)

    def _bits_within_loss(self, lowest: float, network: Network) -> Iterator[Plan]:
        """Bits by frequency in fewer and fewer bytes, while the loss holds; then also taught."""
        descent = next((item for item in self._descents if item.width == 1), None)
        holding = [item for item in self._results.values() if item.validation_auc >= lowest]
        most = min(item.bytes(self._goal.measure) for item in holding)
        taught = False
        while descent is not None:
            wanted = int(SMALLER * most)
            trial = self._trial(descent, network, wanted, by_frequency=True)
            if trial is None:
                return
            if taught:
                trial = replace(trial, distillation=TEACHERS)
            words = f"{_words(descent, network, self._goal)}, bits by frequency, {wanted:,} bytes"
            teachers = f", taught by {TEACHERS.teachers} full models" if taught else ""
            yield Plan(words + teachers, trial, wanted)
            result = self._result(trial)
            if result is None or (taught and result.validation_auc < lowest):
                return
            if result.validation_auc >= lowest:
                most = result.bytes(self._goal.measure)
            else:
                taught = True

    def _smaller_networks(self, lowest: float) -> Iterator[Plan]:
        """The smallest model within the loss with fewer and fewer units, while that holds."""
        for network in self._networks[1:]:
            holding = {
                key: item for key, item in self._results.items() if item.validation_auc >= lowest
            }
            key = min(holding, key=lambda item: holding[item].bytes(self._goal.measure))
            trial = holding[key].trial
            if trial.hidden == network.hidden or trial.start:
                continue
            trial = replace(trial, hidden=network.hidden, dense=network.dense)
            if self._same_depth(network):
                trial = replace(trial, start=key, pruned=True, epochs=PRUNED_EPOCHS)
            yield Plan(str(network), trial)
            result = self._result(trial)
            if result is None or result.validation_auc < lowest:
                return

    def _result(self, trial: Trial) -> TrialResult | None:
        """The result of a trial; None if it was not run."""
        return next((r for r in self._results.values() if r.trial == trial), None)

    def _curve(self) -> Iterator[Plan]:
        """The best design near each size of the curve."""
        goal = self._goal.most_bytes(self._reference)
        best = None if goal is None else self._best(goal)
        by_frequency = best is not None and _has_sections(best.trial)
        for ratio in CURVES[self._goal.measure]:
            most = int(self._reference.bytes(self._goal.measure) / ratio)
            network = self._networks[self._first_network(most)]
            for descent in self._ranked(network, most)[:1]:
                trial = self._trial(descent, network, most, by_frequency=by_frequency)
                if trial is not None:
                    what = _words(descent, network, self._goal)
                    yield Plan(f"for the curve, {ratio:g} times smaller: {what}", trial, most)

    def _ranked(self, network: Network, most: int) -> list[Descent]:
        """The descents that reach `most` bytes, that of the highest promised AUC first."""
        promised = [
            (auc, descent)
            for descent in self._descents
            if (auc := self._fitter.promised(descent.points, network, most)) is not None
        ]
        return [descent for _, descent in sorted(promised, key=lambda item: -item[0])]

    def _tails(self, most: int) -> Iterator[Plan]:
        """The best design of a codec a table with a hashed tail in the largest cut one.

        Its head pays for that.
        """
        best = self._best(most, sections=False)
        if best is None:
            return
        tables = dict(best.trial.tables)
        cut = {
            name: design.head
            for name, design in tables.items()
            if design.head
            and design.head < self._fitter.data.rows_of_values(name)
            and design.tail == "shared"
        }
        if not cut:
            return
        name = max(cut, key=lambda item: cut[item])
        design, rows = tables[name], cut[name]
        tail = max(2 * HASH_BLOCKS, int(rows * TAIL_SHARE))
        t = max(1, int(math.log2(tail / HASH_BLOCKS)))
        kinds: tuple[tuple[Tail, int], ...] = (("binary_code", t), ("hash", tail))
        for kind, size in kinds:
            hashed: TableDesign = replace(design, head=max(1, rows - tail), tail=kind, size=size)
            trial = replace(
                best.trial,
                tables={**tables, name: hashed},
                start="",
                pruned=False,
                epochs=self._base.epochs,
            )
            yield Plan(f"{kind.replace('_', ' ')} rows for the rare values of {name}", trial, most)


def _has_sections(trial: Trial) -> bool:
    return any(design.sections for design in trial.tables.values())


def _is_hashed(trial: Trial) -> bool:
    return any(design.tail == "lookup" for design in trial.tables.values())


def _words(descent: Descent, network: Network, goal: Goal) -> str:
    dimensions = f"{descent.width} dimension{'s' if descent.width > 1 else ''} a value"
    return dimensions if goal.measure == "tables" else f"{dimensions}, {network}"


def _best_points(paths: list[list[Point]]) -> list[Point]:
    """The points of all probes that no other beats in bytes and AUC, by ascending bytes."""
    best: list[Point] = []
    for point in sorted(itertools.chain(*paths), key=lambda p: (p.bytes, -p.auc)):
        if not best or point.auc > best[-1].auc:
            best.append(point)
    return best
