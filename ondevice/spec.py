"""The lookup specification: how an int64 ID becomes a float32 vector, for every executor alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

from ondevice.errors import SpecError
from ondevice.hashing import xxh64
from ondevice.limits import MAX_BLOCKS, MAX_DIM, MAX_FINGERPRINTS, MAX_HASHES, MAX_ROWS
from ondevice.strict_json import parse_strictly

Scheme = Literal["full", "binary_code", "hash", "retrieval"]
Strategy = Literal["succession", "skip"]
Fuse = Literal["sum", "concat", "mean", "mul"]
Pooling = Literal["none", "sum", "mean"]

CODE_BITS = (1, 2, 3, 4, 8)  # of the cells of a retrieval structure
HIGH_BITS = 31  # of a mixed code: what is left of a uint32 is a non-negative int32 everywhere


@dataclass(frozen=True)
class Block:
    """The bits start, start+stride, ... (`bits` of them) of a code; they index rows from `offset`.

    A bit's weight is 2 ** (its position within the block), counted from the least significant.
    """

    start: int
    stride: int
    bits: int
    offset: int


@dataclass(frozen=True)
class Residue:
    """The row offset + (number mod modulus) div divisor, with the floored remainder 0..modulus-1.

    The number comes from the code (id * multiplier) mod 2**64: of `bits` 64 it is the whole code
    read as int64, of `bits` 31 its 31 highest bits, 0..2**31-1.
    """

    modulus: int
    offset: int = 0
    divisor: int = 1
    multiplier: int = 1
    bits: int = 64

    @property
    def rows(self) -> int:
        """How many rows it can select."""
        return -(-self.modulus // self.divisor)


@dataclass(frozen=True)
class Retrieval:
    """Where a retrieval structure keeps an ID's row; its cells are rows of codes.

    Hash c of an ID is the 31 highest bits of (id * m_c) mod 2**64, with an odd m_c drawn from
    `seed` as in `multi_hash_spec`. With h `hashes`, cell i of an ID is
    ((hash h) mod starts + i * window + (hash i) mod window) mod cells: each in a part of its own
    of a stretch of cells, which may go on at the first cell behind the last. Codes of the cells,
    added column by column modulo 2**bits, are the ID's row. Then come `fingerprints` columns more:
    column j must be (hash h + 1 + j) mod 2**bits, or the ID is not among those that the structure
    was built for.

    Source: M. Dietzfelbinger, S. Walzer, "Dense Peelable Random Uniform Hypergraphs", ESA 2019
    (cells close together); T. M. Graf, D. Lemire, "Binary Fuse Filters", 2022. Sums instead of XOR
    are a choice of this project: every target has them.
    """

    hashes: int
    window: int
    starts: int
    bits: int
    seed: int = 0
    fingerprints: int = 0


@dataclass(frozen=True)
class BitPiece:
    """Contiguous bits inside one machine word: ((word >> shift) & mask) * weight."""

    word: int
    shift: int
    mask: int
    weight: int


@dataclass(frozen=True)
class LookupSpec:
    """One embedding lookup: ids int64 [...] -> float32 [..., dim].

    scheme "full": an ID in [0, rows) is its own row; any other takes `oov_row`, or is an
    error when `oov_row` is None.
    scheme "binary_code": the low `code_bits` bits of (id * multiplier) mod 2**64 are cut into
    `blocks`; block c selects row offset_c + value_c.
    scheme "hash": every one of `residues` selects a row.
    The rows of an ID are fused by sum, mean, concat or mul (entry by entry). Every 64-bit pattern
    is a legal ID, except in a full table without an `oov_row`.
    scheme "retrieval": the sum of several cells' codes is the row (see `Retrieval`); an ID with a
    wrong fingerprint reads `oov_row`, which is the last row of the table, behind the cells.

    A hybrid is a binary code or a hash with `head` > 0: an ID in [0, head) reads a row of its own,
    row `id`, and no other; with fuse concat, rows id * n + c for c in 0..n-1.

    With `pooling`, the vectors over the last axis of ids are summed or averaged: ids int64
    [..., length] -> float32 [..., dim]. The mean is over the IDs that are not padding, and zero
    if all are.

    An ID equal to `padding_id` yields the zero vector in all schemes.

    Sources: binary codes are "Binary Code based Hash Embedding for Web-scale Applications",
    CIKM 2021; the multiplier (a bijection mod 2**code_bits) is a choice of this project.
    Hash schemes: see `hashing_spec`, `multi_hash_spec` and `quotient_remainder_spec`.
    """

    scheme: Scheme
    rows: int
    dim: int
    padding_id: int | None = None
    oov_row: int | None = None
    code_bits: int = 0
    multiplier: int = 1
    blocks: tuple[Block, ...] = ()
    fuse: Fuse = "sum"
    residues: tuple[Residue, ...] = ()
    head: int = 0
    pooling: Pooling = "none"
    retrieval: Retrieval | None = None

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise SpecError("lookup specification: " + "; ".join(faults))

    @property
    def row_dim(self) -> int:
        """Width of one stored row: dim, or dim / blocks when rows are concatenated.

        Cells of a retrieval structure have columns of fingerprints besides.
        """
        if self.retrieval is not None:
            return self.dim + self.retrieval.fingerprints
        return self.dim // self.rows_per_id if self.fuse == "concat" else self.dim

    @property
    def rows_per_id(self) -> int:
        """How many rows an ID outside the head reads."""
        if self.retrieval is not None:
            return self.retrieval.hashes
        return max(1, len(self.blocks), len(self.residues))

    @property
    def cells(self) -> int:
        """How many rows of the table are cells of a retrieval structure."""
        return self.rows - (self.oov_row is not None)

    @property
    def cells_wrap(self) -> bool:
        """Whether the cells of an ID may go on at the first cell behind the last one."""
        cells = self.retrieval
        return cells is not None and cells.starts + cells.hashes * cells.window - 1 > self.cells

    @property
    def head_rows(self) -> int:
        """Rows that belong to head IDs; they come first in the table."""
        return self.head * (self.rows_per_id if self.fuse == "concat" else 1)

    @property
    def padding_outside(self) -> bool:
        """Whether the padding ID is none of a plain table that rejects all other such IDs."""
        padding = self.padding_id
        rejects = self.scheme == "full" and self.oov_row is None
        return rejects and padding is not None and not 0 <= padding < self.rows

    @property
    def first_row_id(self) -> int:
        """An ID that reads the first row of a plain table: a padding ID outside it, or 0."""
        return self.padding_id if self.padding_outside and self.padding_id is not None else 0

    @property
    def kind(self) -> str:
        """The scheme in the words of the literature, such as "hybrid hash"."""
        name = self.scheme.replace("_", " ")
        if self.scheme == "hash":
            if any(residue.divisor > 1 for residue in self.residues):
                name = "quotient-remainder"
            else:
                name = "hash" if len(self.residues) == 1 else "multi-hash"
        return f"hybrid {name}" if self.head else name

    def pieces(self, word_bits: Literal[32, 64]) -> list[list[BitPiece]]:
        """Per block, the contiguous bit runs that make up its value, in words of `word_bits`."""
        return [_block_pieces(block, word_bits) for block in self.blocks]

    def retrieval_residues(self) -> tuple[Residue, ...]:
        """What a retrieval structure makes of an ID, one for each of its hashes.

        The places of the cells within their stretch, its start, and the fingerprints.
        """
        cells = self.retrieval
        if cells is None:
            return ()
        moduli = [cells.window] * cells.hashes
        moduli += [cells.starts]
        moduli += [2**cells.bits] * cells.fingerprints
        factors = _factors(len(moduli), cells.seed)
        return tuple(
            Residue(
                modulus,
                cells.window * number if number < cells.hashes else 0,
                multiplier=factor,
                bits=HIGH_BITS,
            )
            for number, (modulus, factor) in enumerate(zip(moduli, factors, strict=True))
        )

    def to_json(self) -> str:
        """Canonical JSON text (sorted keys, no spaces)."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready object; keys that format version 1 does not know are left out if unused."""
        data = asdict(self)
        later = {"residues": (), "head": 0, "pooling": "none", "retrieval": None}
        for name, unused in later.items():
            if data[name] == unused:
                del data[name]
        return data

    @classmethod
    def from_json(cls, text: str) -> LookupSpec:
        """Read what `to_json` wrote.

        Raises:
            SpecError: not JSON, an unknown key, a wrong type, or a contradiction.
        """
        try:
            return cls.from_dict(parse_strictly(text))
        except (ValueError, RecursionError) as error:
            raise SpecError(f"lookup specification is not JSON: {error}") from error

    @classmethod
    def from_dict(cls, data: Any) -> LookupSpec:
        """Build a specification from decoded JSON, checking every type. Raises SpecError."""
        if not isinstance(data, dict):
            raise SpecError(f"lookup specification: expected an object, got {type(data).__name__}")
        members = dict(data)
        lists = {name: members.pop(name, []) for name in ("blocks", "residues")}
        for name, items in lists.items():
            if not isinstance(items, list):
                raise SpecError(f"lookup specification: {name!r} must be a list")
        try:
            blocks = tuple(_from_all(Block, block) for block in lists["blocks"])
            residues = tuple(_from_all(Residue, residue) for residue in lists["residues"])
            if members.get("retrieval") is not None:
                members["retrieval"] = _from_all(Retrieval, members["retrieval"])
            return cls(blocks=blocks, residues=residues, **members)
        except TypeError as error:
            raise SpecError(f"lookup specification: {error}") from error


Part = TypeVar("Part", Block, Residue, Retrieval)


def _from_all(kind: type[Part], item: Any) -> Part:
    """A part of a specification from decoded JSON, which must name all of its members.

    Raises:
        SpecError: one is missing or unknown.
    """
    names = [member.name for member in fields(kind)]
    if not isinstance(item, dict) or set(item) != set(names):
        raise SpecError(
            f"lookup specification: {kind.__name__.lower()} needs exactly {', '.join(names)}, "
            f"got {item!r}"
        )
    return kind(**item)


def full_spec(
    rows: int, dim: int, *, padding_id: int | None = None, oov_row: int | None = None
) -> LookupSpec:
    """Specification of a plain table with one row per ID."""
    return LookupSpec("full", rows, dim, padding_id=padding_id, oov_row=oov_row)


def binary_code_spec(
    dim: int,
    *,
    code_bits: int,
    t: int | Sequence[int],
    strategy: Strategy = "succession",
    shared: bool = False,
    rows: int | None = None,
    fuse: Fuse = "sum",
    multiplier: int = 1,
    padding_id: int | None = None,
    head: int = 0,
) -> LookupSpec:
    """Specification of a binary-code hash embedding.

    Args:
        dim: output width.
        code_bits: S, how many low bits of the ID are used (1..64).
        t: Succession: bits per block, n = ceil(S/t). Skip: n = t+1 blocks of every n-th bit. Or the
            bits of each block, which gives any number of rows as a sum of powers of two;
            together at least S, and if they are more, blocks overlap, spread over the code (a
            choice of this project).
        strategy: "succession" or "skip".
        shared: one row range for all blocks instead of one per block.
        rows: of all blocks together, without the head; fewer than they have one by one: their row
            ranges overlap, spread evenly (a choice of this project). None: each its own range.
        fuse: how the block rows become one vector.
        multiplier: odd 64-bit factor that scrambles sequential IDs; 1 leaves IDs as they are.
        padding_id: ID that yields the zero vector.
        head: how many IDs, 0..head-1, own a row instead.

    Raises:
        SpecError: the settings contradict one another.
    """
    runs = _bit_runs(code_bits, t, strategy)
    first = _head_rows(head, len(runs), fuse)
    sizes = [1 << bits for _, _, bits in runs]
    least, most = max(sizes), max(sizes) if shared else sum(sizes)
    total = most if rows is None else rows
    if not least <= total <= most:
        raise SpecError(f"blocks of {sizes} rows have {least} to {most} together, got rows={rows}")
    offsets = [0] * len(sizes) if shared else _spread(sizes, total)
    blocks = [Block(*run, first + offset) for run, offset in zip(runs, offsets, strict=True)]
    return LookupSpec(
        "binary_code",
        first + total,
        dim,
        padding_id=padding_id,
        code_bits=code_bits,
        multiplier=multiplier,
        blocks=tuple(blocks),
        fuse=fuse,
        head=head,
    )


def _bit_runs(
    code_bits: int, t: int | Sequence[int], strategy: Strategy
) -> list[tuple[int, int, int]]:
    """First bit, stride and number of bits of every block of a code. Raises SpecError."""
    if not 1 <= code_bits <= 64:
        raise SpecError(f"code_bits must be 1..64, got {code_bits}")
    if not isinstance(t, int):
        if strategy != "succession" or sum(t) < code_bits or not 1 <= min(t) <= max(t) <= code_bits:
            raise SpecError(
                f"blocks of given sizes: succession, 1..{code_bits} bits each and code_bits "
                f"{code_bits} or more together needed, got {strategy} of {list(t)}"
            )
        return [(start, 1, bits) for start, bits in zip(_spread(t, code_bits), t, strict=True)]
    if strategy == "succession":
        if not 1 <= t <= code_bits:
            raise SpecError(f"succession: t must be 1..{code_bits} (code_bits), got {t}")
        return [(start, 1, min(t, code_bits - start)) for start in range(0, code_bits, t)]
    if strategy == "skip":
        n = t + 1
        if not 0 <= t < code_bits:
            raise SpecError(f"skip: t must be 0..{code_bits - 1} (code_bits - 1), got {t}")
        return [(start, n, -(-(code_bits - start) // n)) for start in range(n)]
    raise SpecError(f"strategy must be 'succession' or 'skip', got {strategy!r}")


def _spread(sizes: Sequence[int], total: int) -> list[int]:
    """Where pieces of these sizes begin in a range of `total`, one after another, even spread.

    They overlap if they have more than `total` together.
    """
    return [
        sum(sizes[:number]) * (total - size) // max(1, sum(sizes) - size)
        for number, size in enumerate(sizes)
    ]


def hashing_spec(
    rows: int, dim: int, *, padding_id: int | None = None, head: int = 0
) -> LookupSpec:
    """Specification of the hashing trick: an ID reads row id mod `rows`.

    With a head it is a hybrid hash: frequent IDs 0..head-1 own a row, the others share `rows` more.

    Source: K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.

    Raises:
        SpecError: the settings contradict one another.
    """
    return _hash_spec([Residue(rows)], dim, "sum", padding_id, head)


def multi_hash_spec(
    rows: int,
    dim: int,
    *,
    hashes: int = 2,
    shared: bool = False,
    fuse: Fuse = "sum",
    seed: int = 0,
    padding_id: int | None = None,
    head: int = 0,
) -> LookupSpec:
    """Specification of independent hashes whose rows are fused.

    Hash c of an ID is ((id * m_c mod 2**64) div 2**33) mod rows, with an odd m_c drawn from `seed`
    (multiply-shift, M. Dietzfelbinger et al., "A Reliable Randomized Algorithm for the
    Closest-Pair Problem", 1997); m_c is XXH64 of c as 8 little-endian bytes, with its last bit set.

    Source: D. Svenstrup et al., "Hash Embeddings for Efficient Word Representations", NIPS 2017;
    their importance weights per ID are left out, because they are one more table of all IDs.

    Args:
        rows: rows of each hash, or of all together where `shared`.
        dim: output width.
        hashes: how many.
        shared: one row range for all hashes instead of one for each.
        fuse: how the rows become one vector.
        seed: 0..2**64-1, of the multipliers.
        padding_id: ID that yields the zero vector.
        head: how many IDs, 0..head-1, own a row instead.

    Raises:
        SpecError: the settings contradict one another.
    """
    if not 1 <= hashes <= MAX_BLOCKS:
        raise SpecError(f"1..{MAX_BLOCKS} hashes needed, got {hashes}")
    residues = [
        Residue(rows, 0 if shared else rows * number, multiplier=factor, bits=HIGH_BITS)
        for number, factor in enumerate(_factors(hashes, seed))
    ]
    return _hash_spec(residues, dim, fuse, padding_id, head)


def quotient_remainder_spec(
    values: int,
    dim: int,
    *,
    remainders: int,
    fuse: Fuse = "sum",
    padding_id: int | None = None,
    head: int = 0,
) -> LookupSpec:
    """Specification of a quotient-remainder embedding: rows id mod m and id div m are fused.

    IDs 0..values-1 have a pair of rows each that no other of them has; IDs beyond are taken modulo
    m * ceil(values / m).

    Source: H.-J. M. Shi et al., "Compositional Embeddings Using Complementary Partitions for
    Memory-Efficient Recommendation Systems", KDD 2020, with its fuses mul, sum and concat.

    Args:
        values: how many IDs must stay apart.
        dim: output width.
        remainders: m, rows of the remainder; ceil(values / m) rows are those of the quotient.
        fuse: how the two rows become one vector.
        padding_id: ID that yields the zero vector.
        head: how many IDs, 0..head-1, own a row instead.

    Raises:
        SpecError: the settings contradict one another.
    """
    if remainders < 1 or values < 1:
        raise SpecError(f"values and remainders >= 1 needed, got {values} and {remainders}")
    whole = -(-values // remainders) * remainders
    residues = [Residue(remainders), Residue(whole, remainders, divisor=remainders)]
    return _hash_spec(residues, dim, fuse, padding_id, head)


def _factors(count: int, seed: int) -> list[int]:
    """Odd 64-bit factors of independent hashes; see `multi_hash_spec`."""
    return [xxh64(number.to_bytes(8, "little"), seed) | 1 for number in range(count)]


def _hash_spec(
    residues: Sequence[Residue], dim: int, fuse: Fuse, padding_id: int | None, head: int
) -> LookupSpec:
    """A hash lookup whose residues begin behind the rows of the head."""
    first = _head_rows(head, len(residues), fuse)
    moved = tuple(replace(residue, offset=residue.offset + first) for residue in residues)
    rows = max(residue.offset + residue.rows for residue in moved)
    return LookupSpec(
        "hash", rows, dim, padding_id=padding_id, fuse=fuse, residues=moved, head=head
    )


def _head_rows(head: int, rows_per_id: int, fuse: Fuse) -> int:
    return head * (rows_per_id if fuse == "concat" else 1)


def _faults(spec: LookupSpec) -> list[str]:
    """Every contradiction in a specification; those of types hide the others."""
    faults = _type_faults(spec)
    if faults:
        return faults
    if not 1 <= spec.rows <= MAX_ROWS:
        faults.append(f"rows must be 1..{MAX_ROWS}, got {spec.rows}")
    if not 1 <= spec.dim <= MAX_DIM:
        faults.append(f"dim must be 1..{MAX_DIM}, got {spec.dim}")
    if spec.padding_id is not None and not -(2**63) <= spec.padding_id < 2**63:
        faults.append(f"padding_id must fit int64, got {spec.padding_id}")
    if spec.fuse not in get_args(Fuse):
        faults.append(f"fuse must be sum, concat, mean or mul, got {spec.fuse!r}")
    if spec.pooling not in get_args(Pooling):
        faults.append(f"pooling must be none, sum or mean, got {spec.pooling!r}")
    elif spec.pooling != "none" and spec.padding_id is None:
        faults.append("pooling needs a padding_id")
    if spec.retrieval is not None and spec.scheme != "retrieval":
        faults.append(f"scheme {spec.scheme!r} takes no retrieval")
    if spec.scheme == "full":
        if spec.oov_row is not None and not 0 <= spec.oov_row < spec.rows:
            faults.append(f"oov_row must be a row 0..{spec.rows - 1}, got {spec.oov_row}")
        if spec.blocks or spec.code_bits or spec.multiplier != 1 or spec.fuse != "sum":
            faults.append("a full table takes no code_bits, multiplier, blocks or fuse")
        if spec.residues or spec.head:
            faults.append("a full table takes no residues or head")
    elif spec.scheme == "binary_code":
        faults += _shared_faults(spec) + _binary_code_faults(spec)
    elif spec.scheme == "hash":
        faults += _shared_faults(spec) + _hash_faults(spec)
    elif spec.scheme == "retrieval":
        faults += _retrieval_faults(spec)
    else:
        faults.append(f"unknown scheme {spec.scheme!r} ({', '.join(get_args(Scheme))})")
    return faults


def _shared_faults(spec: LookupSpec) -> list[str]:
    """Faults of what binary codes and hashes have in common."""
    faults = []
    if spec.fuse == "concat" and spec.dim % spec.rows_per_id:
        faults.append(f"concat needs dim divisible by {spec.rows_per_id} rows, got {spec.dim}")
    if spec.oov_row is not None:
        faults.append("no ID is out of range but in a full table, so no oov_row")
    if not 0 <= spec.head <= MAX_ROWS or spec.head_rows > spec.rows:
        faults.append(f"head: its {spec.head_rows} rows must be among the {spec.rows} of the table")
    elif spec.head and spec.fuse == "mul":
        faults.append("a head goes with the fuses sum, mean and concat, not with mul")
    return faults


def _type_faults(spec: LookupSpec) -> list[str]:
    """Faults of numbers that are not integers; True and False are not integers either."""
    values: dict[str, Any] = {
        "rows": spec.rows,
        "dim": spec.dim,
        "code_bits": spec.code_bits,
        "multiplier": spec.multiplier,
        "head": spec.head,
    }
    values |= {
        name: value
        for name, value in (("padding_id", spec.padding_id), ("oov_row", spec.oov_row))
        if value is not None
    }
    if isinstance(spec.retrieval, Retrieval):
        values |= {f"retrieval.{name}": value for name, value in asdict(spec.retrieval).items()}
    for number, block in enumerate(spec.blocks):
        values |= {f"blocks[{number}].{name}": value for name, value in asdict(block).items()}
    for number, residue in enumerate(spec.residues):
        values |= {f"residues[{number}].{name}": value for name, value in asdict(residue).items()}
    return [
        f"{name} must be an integer, got {value!r}"
        for name, value in values.items()
        if not isinstance(value, int) or isinstance(value, bool)
    ]


def _binary_code_faults(spec: LookupSpec) -> list[str]:
    faults = []
    if not 1 <= spec.code_bits <= 64:
        faults.append(f"code_bits must be 1..64, got {spec.code_bits}")
    if not (1 <= spec.multiplier < 2**64 and spec.multiplier % 2):
        faults.append(f"multiplier must be odd and fit 64 bits, got {spec.multiplier}")
    if not 1 <= len(spec.blocks) <= MAX_BLOCKS:
        faults.append(f"1..{MAX_BLOCKS} blocks needed, got {len(spec.blocks)}")
    if spec.residues:
        faults.append("a binary code takes no residues")
    for number, block in enumerate(spec.blocks):
        if block.bits < 1 or block.start < 0 or block.stride < 1 or block.bits > 31:
            faults.append(f"block {number}: start >= 0, stride >= 1 and bits 1..31 needed: {block}")
            continue
        if block.start + (block.bits - 1) * block.stride >= spec.code_bits:
            faults.append(f"block {number} reads beyond bit {spec.code_bits - 1}: {block}")
        if block.offset < 0 or block.offset + 2**block.bits > spec.rows:
            faults.append(f"block {number} reaches beyond row {spec.rows - 1}: {block}")
    return faults


def _hash_faults(spec: LookupSpec) -> list[str]:
    faults = []
    if spec.blocks or spec.code_bits or spec.multiplier != 1:
        faults.append("a hash takes residues, not code_bits, multiplier or blocks")
    if not 1 <= len(spec.residues) <= MAX_BLOCKS:
        faults.append(f"1..{MAX_BLOCKS} residues needed, got {len(spec.residues)}")
    if len({residue.bits for residue in spec.residues}) > 1:
        faults.append("all residues must be of the same number of bits")
    for number, residue in enumerate(spec.residues):
        if not (1 <= residue.divisor <= residue.modulus <= MAX_ROWS):
            faults.append(f"residue {number}: 1 <= divisor <= modulus <= {MAX_ROWS} needed")
            continue
        if not (1 <= residue.multiplier < 2**64 and residue.multiplier % 2):
            faults.append(f"residue {number}: multiplier must be odd and fit 64 bits")
        if residue.bits not in (64, HIGH_BITS):
            faults.append(f"residue {number}: bits must be 64 or {HIGH_BITS}, got {residue.bits}")
        if residue.offset < 0 or residue.offset + residue.rows > spec.rows:
            faults.append(f"residue {number} reaches beyond row {spec.rows - 1}: {residue}")
    return faults


def _retrieval_faults(spec: LookupSpec) -> list[str]:
    cells = spec.retrieval
    if not isinstance(cells, Retrieval):
        return ["a retrieval structure needs its hashes, window, bits, seed and fingerprints"]
    faults = []
    if spec.blocks or spec.residues or spec.code_bits or spec.multiplier != 1 or spec.head:
        faults.append("a retrieval structure takes no blocks, residues, code_bits or head")
    if spec.fuse != "sum":
        faults.append(f"a retrieval structure takes no fuse, got {spec.fuse!r}")
    if cells.bits not in CODE_BITS:
        faults.append(f"retrieval.bits must be one of {CODE_BITS}, got {cells.bits}")
    if not 1 <= cells.hashes <= MAX_HASHES:
        faults.append(f"retrieval.hashes must be 1..{MAX_HASHES}, got {cells.hashes}")
    if not 0 <= cells.fingerprints <= MAX_FINGERPRINTS:
        faults.append(f"retrieval.fingerprints must be 0..{MAX_FINGERPRINTS}")
    if not 0 <= cells.seed < 2**31:
        faults.append(f"retrieval.seed must be 0..2**31-1, got {cells.seed}")
    if spec.oov_row not in (None if not cells.fingerprints else spec.rows - 1,):
        faults.append(
            "with fingerprints the last row is that for unknown IDs, without there is none"
        )
    if not 1 <= cells.starts <= min(spec.cells, MAX_ROWS - cells.hashes * cells.window):
        faults.append(f"retrieval.starts must be 1..{spec.cells} cells, got {cells.starts}")
    if cells.window < 1 or cells.hashes * cells.window > spec.cells:
        faults.append(
            f"{cells.hashes} windows of {cells.window} cells must fit the {spec.cells} cells"
        )
    return faults


def _block_pieces(block: Block, word_bits: int) -> list[BitPiece]:
    pieces = []
    position = 0
    while position < block.bits:
        bit = block.start + position * block.stride
        word, shift = divmod(bit, word_bits)
        run = min(block.bits - position, word_bits - shift) if block.stride == 1 else 1
        pieces.append(BitPiece(word, shift, 2**run - 1, 2**position))
        position += run
    return pieces
