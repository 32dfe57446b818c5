"""The lookup specification: how an int64 ID becomes a float32 vector, for every executor alike."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ondevice.errors import SpecError

Scheme = Literal["full", "binary_code"]
Strategy = Literal["succession", "skip"]
Fuse = Literal["sum", "concat", "mean"]

MAX_ROWS = 2**31 - 1  # row numbers travel as int32 in TFLite
MAX_DIM = 1024
MAX_BLOCKS = 64  # one bit per block at most


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
    `blocks`; block c selects row offset_c + value_c; the rows are fused by sum, mean or concat.
    Every 64-bit pattern is a legal ID.
    An ID equal to `padding_id` yields the zero vector in both schemes.

    Source of the scheme: "Binary Code based Hash Embedding for Web-scale Applications",
    CIKM 2021; the multiplier (a bijection mod 2**code_bits) is a choice of this project.
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

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise SpecError("lookup specification: " + "; ".join(faults))

    @property
    def row_dim(self) -> int:
        """Width of one stored row: dim, or dim / blocks when rows are concatenated."""
        return self.dim // len(self.blocks) if self.fuse == "concat" else self.dim

    @property
    def rows_per_id(self) -> int:
        """How many rows one ID reads."""
        return max(1, len(self.blocks))

    def pieces(self, word_bits: Literal[32, 64]) -> list[list[BitPiece]]:
        """Per block, the contiguous bit runs that make up its value, in words of `word_bits`."""
        return [_block_pieces(block, word_bits) for block in self.blocks]

    def to_json(self) -> str:
        """Canonical JSON text (sorted keys, no spaces)."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> LookupSpec:
        """Read what `to_json` wrote.

        Raises:
            SpecError: not JSON, an unknown key, a wrong type, or a contradiction.
        """
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise SpecError(f"lookup specification is not JSON: {error}") from error

    @classmethod
    def from_dict(cls, data: Any) -> LookupSpec:
        """Build a specification from decoded JSON, checking every type. Raises SpecError."""
        if not isinstance(data, dict):
            raise SpecError(f"lookup specification: expected an object, got {type(data).__name__}")
        fields = dict(data)
        raw_blocks = fields.pop("blocks", [])
        if not isinstance(raw_blocks, list):
            raise SpecError("lookup specification: 'blocks' must be a list")
        try:
            blocks = tuple(Block(**block) for block in raw_blocks)
            return cls(blocks=blocks, **fields)
        except TypeError as error:
            raise SpecError(f"lookup specification: {error}") from error


def full_spec(
    rows: int, dim: int, *, padding_id: int | None = None, oov_row: int | None = None
) -> LookupSpec:
    """Specification of a plain table with one row per ID."""
    return LookupSpec("full", rows, dim, padding_id=padding_id, oov_row=oov_row)


def binary_code_spec(
    dim: int,
    *,
    code_bits: int,
    t: int,
    strategy: Strategy = "succession",
    shared: bool = False,
    fuse: Fuse = "sum",
    multiplier: int = 1,
    padding_id: int | None = None,
) -> LookupSpec:
    """Specification of a binary-code hash embedding.

    Args:
        dim: output width.
        code_bits: S, how many low bits of the ID are used (1..64).
        t: Succession: bits per block, n = ceil(S/t). Skip: n = t+1 blocks of every n-th bit.
        strategy: "succession" or "skip".
        shared: one row range for all blocks instead of one per block.
        fuse: how the block rows become one vector.
        multiplier: odd 64-bit factor that scrambles sequential IDs; 1 leaves IDs as they are.
        padding_id: ID that yields the zero vector.

    Raises:
        SpecError: the settings contradict one another.
    """
    if not 1 <= code_bits <= 64:
        raise SpecError(f"code_bits must be 1..64, got {code_bits}")
    if strategy == "succession":
        if not 1 <= t <= code_bits:
            raise SpecError(f"succession: t must be 1..{code_bits} (code_bits), got {t}")
        runs = [(start, 1, min(t, code_bits - start)) for start in range(0, code_bits, t)]
    elif strategy == "skip":
        n = t + 1
        if not 0 <= t < code_bits:
            raise SpecError(f"skip: t must be 0..{code_bits - 1} (code_bits - 1), got {t}")
        runs = [(start, n, -(-(code_bits - start) // n)) for start in range(n)]
    else:
        raise SpecError(f"strategy must be 'succession' or 'skip', got {strategy!r}")
    blocks, offset = [], 0
    for start, stride, bits in runs:
        blocks.append(Block(start, stride, bits, 0 if shared else offset))
        offset += 2**bits
    rows = max(2**bits for _, _, bits in runs) if shared else offset
    return LookupSpec(
        "binary_code",
        rows,
        dim,
        padding_id=padding_id,
        code_bits=code_bits,
        multiplier=multiplier,
        blocks=tuple(blocks),
        fuse=fuse,
    )


def _faults(spec: LookupSpec) -> list[str]:
    faults = _type_faults(spec)
    if faults:
        return faults
    if not 1 <= spec.rows <= MAX_ROWS:
        faults.append(f"rows must be 1..{MAX_ROWS}, got {spec.rows}")
    if not 1 <= spec.dim <= MAX_DIM:
        faults.append(f"dim must be 1..{MAX_DIM}, got {spec.dim}")
    if spec.padding_id is not None and not -(2**63) <= spec.padding_id < 2**63:
        faults.append(f"padding_id must fit int64, got {spec.padding_id}")
    if spec.fuse not in ("sum", "concat", "mean"):
        faults.append(f"fuse must be sum, concat or mean, got {spec.fuse!r}")
    if spec.scheme == "full":
        if spec.oov_row is not None and not 0 <= spec.oov_row < spec.rows:
            faults.append(f"oov_row must be a row 0..{spec.rows - 1}, got {spec.oov_row}")
        if spec.blocks or spec.code_bits or spec.multiplier != 1 or spec.fuse != "sum":
            faults.append("a full table takes no code_bits, multiplier, blocks or fuse")
    elif spec.scheme == "binary_code":
        faults += _binary_code_faults(spec)
    else:
        faults.append(f"unknown scheme {spec.scheme!r} (full, binary_code)")
    return faults


def _type_faults(spec: LookupSpec) -> list[str]:
    values: dict[str, Any] = {
        "rows": spec.rows,
        "dim": spec.dim,
        "code_bits": spec.code_bits,
        "multiplier": spec.multiplier,
    }
    values |= {
        name: value
        for name, value in (("padding_id", spec.padding_id), ("oov_row", spec.oov_row))
        if value is not None
    }
    for number, block in enumerate(spec.blocks):
        values |= {f"blocks[{number}].{name}": value for name, value in asdict(block).items()}
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
    elif spec.fuse == "concat" and spec.dim % len(spec.blocks):
        faults.append(f"concat needs dim divisible by {len(spec.blocks)} blocks, got {spec.dim}")
    if spec.oov_row is not None:
        faults.append("a binary code has no out-of-range IDs, so no oov_row")
    for number, block in enumerate(spec.blocks):
        if block.bits < 1 or block.start < 0 or block.stride < 1 or block.bits > 31:
            faults.append(f"block {number}: start >= 0, stride >= 1 and bits 1..31 needed: {block}")
            continue
        if block.start + (block.bits - 1) * block.stride >= spec.code_bits:
            faults.append(f"block {number} reads beyond bit {spec.code_bits - 1}: {block}")
        if block.offset < 0 or block.offset + 2**block.bits > spec.rows:
            faults.append(f"block {number} reaches beyond row {spec.rows - 1}: {block}")
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
