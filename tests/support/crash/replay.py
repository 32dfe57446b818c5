"""What a folder may look like after a power loss, from the record that shim.c wrote of a process.

Data and names are on the disk for sure once their file or folder was synced; of what came later any
part may be there, whatever its order: POSIX promises no more. A rename is there or not, never half.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = 0  # the inode of the folder itself
EXHAUSTIVE = 8  # operations that are not synced: all their subsets are tried


@dataclass(frozen=True)
class Operation:
    """One line of the record; `kind` as in shim.c."""

    kind: str
    paths: tuple[str, ...] = ()
    inode: int = 0  # numbered anew: an inode that is used again is another
    at: int = 0
    data: bytes = b""


@dataclass
class Tree:
    """Names and what lies behind them: paths of files and folders by inode, bytes by inode."""

    names: dict[str, int] = field(default_factory=dict)
    folders: set[int] = field(default_factory=set)
    data: dict[int, bytearray] = field(default_factory=dict)

    def apply(self, operation: Operation) -> None:
        kind, paths, inode = operation.kind, operation.paths, operation.inode
        if kind == "C":
            self.names[paths[0]] = inode
            self.data.setdefault(inode, bytearray())
        elif kind == "M":
            self.names[paths[0]] = inode
            self.folders.add(inode)
        elif kind == "U":
            self.names.pop(paths[0], None)
        elif kind == "R":
            self._rename(*paths, inode)
        elif kind == "W":
            held = self.data.setdefault(inode, bytearray())
            held.extend(bytes(max(0, operation.at - len(held))))
            held[operation.at : operation.at + len(operation.data)] = operation.data
        elif kind == "T":
            held = self.data.setdefault(inode, bytearray())
            held.extend(bytes(max(0, operation.at - len(held))))
            del held[operation.at :]

    def _rename(self, old: str, new: str, inode: int) -> None:
        moved = {
            path: number
            for path, number in self.names.items()
            if path == old or path.startswith(f"{old}/")
        }
        for path in moved:
            del self.names[path]
        moved[old] = inode  # whatever had the old name on the disk: the new entry says this inode
        for path, number in moved.items():
            self.names[new + path[len(old) :]] = number

    def files(self) -> dict[str, bytes | None]:
        """Paths that can be reached, with their bytes; None for folders."""
        reached: dict[str, bytes | None] = {}
        for path in sorted(self.names, key=lambda path: path.count("/")):
            parent = path.rpartition("/")[0]
            if not parent or reached.get(parent, b"") is None:
                inode = self.names[path]
                is_folder = inode in self.folders
                reached[path] = None if is_folder else bytes(self.data.get(inode, b""))
        return reached


def read_record(path: Path, root: Path) -> tuple[list[Operation], dict[str, int]]:
    """The operations of a record below `root`, and after how many of them each mark stands."""
    operations: list[Operation] = []
    marks: dict[str, int] = {}
    numbers = {str(root.stat().st_ino): ROOT}
    fresh = itertools.count(1)
    for line in path.read_text().splitlines():
        kind, *words = line.split("\t")
        if kind == "K":
            marks[words[0]] = len(operations)
        elif kind in ("C", "M"):
            numbers[words[1]] = next(fresh)
            operations.append(Operation(kind, (words[0],), numbers[words[1]]))
        elif kind == "L":
            operations.append(Operation("C", (words[0],), numbers[words[1]]))
        elif kind == "R":
            numbers.setdefault(words[2], next(fresh))
            operations.append(Operation(kind, (words[0], words[1]), numbers[words[2]]))
        elif kind == "U":
            operations.append(Operation(kind, (words[0],), numbers.get(words[1], 0)))
        else:
            inode = numbers.setdefault(words[0], next(fresh))
            at = int(words[1]) if len(words) > 1 else 0
            data = bytes.fromhex(words[2]) if kind == "W" else b""
            operations.append(Operation(kind, (), inode, at, data))
    while (unseen := _unseen_rename(operations)) is not None:
        place, rename = unseen
        operations.insert(place, rename)
        marks = {name: at + (at > place) for name, at in marks.items()}
    return operations, marks


def _unseen_rename(operations: list[Operation]) -> tuple[int, Operation] | None:
    """A rename by a system call that no library can see, and where it belongs in the record.

    The safetensors library renames what it has written so. It shows when the file is renamed the
    next time, from a name that it did not have.
    """
    tree, changed = Tree(), {}
    for number, operation in enumerate(operations):
        if operation.kind == "R" and tree.names.get(operation.paths[0]) != operation.inode:
            place = changed.get(operation.inode, number - 1) + 1
            then = whole(operations[:place])
            for path, inode in then.names.items():
                if inode == operation.inode:
                    folder, name = Path(path).parent, Path(operation.paths[0]).name
                    return place, Operation("R", (path, (folder / name).as_posix()), inode)
        if operation.kind in "CWT":
            changed[operation.inode] = number
        tree.apply(operation)
    return None


def whole(operations: list[Operation]) -> Tree:
    """What the folder holds where every operation has reached the disk."""
    tree = Tree()
    for operation in operations:
        tree.apply(operation)
    return tree


def crashes(
    operations: list[Operation], first: int, last: int, samples: int, seed: int
) -> Iterator[tuple[int, Tree]]:
    """Folders that a power loss after `first`..`last` operations may leave, each only once.

    Args:
        operations: the whole record; those before `first` have reached the disk.
        samples: subsets to draw where more than EXHAUSTIVE operations are not synced, beside all,
            none, and as many times all but one and only one.
        seed: of the draws.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    base = whole(operations[:first])
    folders = _folders(operations)
    synced = _synced_when(operations, folders)
    seen = set()
    for point in range(first, last + 1):
        loose = [
            number
            for number in range(first, point)
            if operations[number].kind != "S" and synced[number] > point
        ]
        for lost in _subsets(loose, samples, rng):
            tree = Tree(
                dict(base.names),
                set(base.folders),
                {inode: bytearray(data) for inode, data in base.data.items()},
            )
            for number in range(first, point):
                if number not in lost:
                    tree.apply(operations[number])
            key = tuple(sorted(tree.files().items()))
            if hash(key) not in seen:
                seen.add(hash(key))
                yield point, tree


def _folders(operations: list[Operation]) -> list[tuple[int, ...]]:
    """For every operation on names, the inodes of the folders that it changes."""
    tree, changed = Tree(), []
    for operation in operations:
        parents = {path.rpartition("/")[0] for path in operation.paths}
        changed.append(tuple(tree.names.get(parent, ROOT) for parent in sorted(parents)))
        tree.apply(operation)
    return changed


def _synced_when(operations: list[Operation], folders: list[tuple[int, ...]]) -> list[int]:
    """For every operation after how many operations it is on the disk for sure.

    A rename between two folders is one operation of the file system: either folder's sync
    brings it to the disk.
    """
    last = len(operations) + 1
    syncs: dict[int, list[int]] = {}
    for number, operation in enumerate(operations):
        if operation.kind == "S":
            syncs.setdefault(operation.inode, []).append(number)
    points = []
    for number, operation in enumerate(operations):
        inodes = folders[number] if operation.paths else (operation.inode,)
        later = [at + 1 for inode in inodes for at in syncs.get(inode, []) if at > number]
        points.append(min(later, default=last))
    return points


def _subsets(loose: list[int], samples: int, rng: random.Random) -> Iterator[frozenset[int]]:
    """Sets of operations that get lost."""
    if len(loose) <= EXHAUSTIVE:
        for size in range(len(loose) + 1):
            yield from map(frozenset, itertools.combinations(loose, size))
        return
    yield frozenset()
    yield frozenset(loose)
    for number in rng.sample(loose, min(len(loose), samples)):
        yield frozenset([number])
        yield frozenset(loose) - {number}
    for _ in range(samples):
        share = rng.random()
        yield frozenset(number for number in loose if rng.random() < share)


def lay_out(tree: Tree, folder: Path) -> None:
    """Write what a power loss left into an empty folder."""
    for path, data in tree.files().items():
        place = folder / path
        if data is None:
            place.mkdir()
        else:
            place.write_bytes(data)
