"""The design of a field's table: a row for each frequent value, a tail for all others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from ondevice.codecs import CODECS, NARROW_CODECS, Codec
from ondevice.errors import SpecError
from ondevice.features import FIRST_VOCABULARY_ID, OOV_ID
from ondevice.hashing import IdArray
from ondevice.limits import MAX_SECTIONS
from ondevice.sections import Section, Sections, TableCodec, check_sections, resolve_sections
from ondevice.spec import (
    LookupSpec,
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

HASHES = 2  # of a multi-hash tail
# Blocks of a binary code of hashes. More blocks would keep more values apart, but a row would serve
# more values: one block more cost 0.05 AUC where a tail had 50 rows.
HASH_BLOCKS = 3

# Groups of a vocabulary whose places are codes: as many as a file can have.
PLACE_GROUPS = MAX_SECTIONS

Tail = Literal["shared", "hash", "multi_hash", "quotient_remainder", "binary_code", "lookup"]
TAILS: tuple[Tail, ...] = get_args(Tail)


@dataclass(frozen=True)
class TableDesign:
    """How the table of one field is built.

    Attributes:
        dim: width of the rows.
        codec: how they are stored.
        head: how many values own a row, the most frequent ones of training; None for all of them.
        tail: what all other values read. "shared": one row together. Otherwise rows that the
            value's ID selects, as `ondevice.spec` says.
        size: of the tail. "hash": rows; "multi_hash": rows of each of two hashes;
            "quotient_remainder": remainders; "binary_code": bits of a block (succession, separate
            rows, summed); "lookup": none.
        lookup: of the tail "lookup"; no value owns a row then, and IDs are hashes.
        places: IDs of the tail "lookup" are instead places in a vocabulary of all training values,
            in up to PLACE_GROUPS groups of falling frequency. Scales belong to columns.
        sections: codecs of consecutive rows as (rows, codec), the rows of the most frequent values
            first (those of IDs 0 and 1 before them); the last may have None for all that remain.
            Narrow codecs have fitted levels. Empty: `codec` for all rows.

    Raises:
        SpecError: a setting out of range.
    """

    dim: int = 16
    codec: Codec = "q4"
    head: int | None = None
    tail: Tail = "shared"
    size: int = 0
    lookup: LookupSpec | None = None
    sections: tuple[tuple[int | None, Codec], ...] = ()
    places: bool = False

    def __post_init__(self) -> None:
        faults = []
        if self.dim < 1:
            faults.append(f"dim must be at least 1, got {self.dim}")
        if self.codec not in CODECS:
            faults.append(f"codec must be one of {', '.join(CODECS)}, got {self.codec!r}")
        if self.head is not None and self.head < 0:
            faults.append(f"head must not be negative, got {self.head}")
        if self.tail not in TAILS:
            faults.append(f"tail must be one of {', '.join(TAILS)}, got {self.tail!r}")
        elif (self.tail in ("shared", "lookup")) != (self.size == 0) or self.size < 0:
            faults.append(f"tail {self.tail!r} with size {self.size}")
        if (self.tail == "lookup") != (self.lookup is not None):
            faults.append(f"tail {self.tail!r} with lookup {self.lookup}")
        elif self.lookup is not None and (self.head != 0 or self.lookup.dim != self.dim):
            faults.append(
                f"a lookup of dim {self.dim} and head 0 are needed; got dim {self.lookup.dim} and "
                f"head {self.head}"
            )
        if self.places and self.lookup is None:
            faults.append(f"places need the tail 'lookup', got {self.tail!r}")
        # JSON gives lists
        object.__setattr__(self, "sections", tuple((rows, code) for rows, code in self.sections))
        if self.sections:
            check_sections(self._sections())
            if self.tail != "shared":
                faults.append(f"sections need the tail 'shared', got {self.tail!r}")
        if faults:
            raise SpecError("table design: " + "; ".join(faults))

    @property
    def stored(self) -> TableCodec:
        """How the table is stored, for `convert`."""
        if self.places:
            return (Section(None, self.codec, scale_axis="column"),)
        return self._sections() if self.sections else self.codec

    def _sections(self) -> Sections:
        return tuple(
            Section(rows, codec, scale_axis="levels" if codec in NARROW_CODECS else None)
            for rows, codec in self.sections
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TableDesign:
        """Read what `dataclasses.asdict` and JSON made of a design. Raises SpecError."""
        lookup = data.get("lookup")
        try:
            return cls(**{**data, "lookup": lookup and LookupSpec.from_dict(lookup)})
        except TypeError as error:
            raise SpecError(f"not a table design: {error}") from error

    def rows_owned(self, values: int) -> int:
        """How many of a field's values own a row."""
        return values if self.head is None else min(self.head, values)

    def values_mapped(self, values: int) -> int:
        """How many of a field's values a vocabulary must find."""
        return values if self.places else self.rows_owned(values)

    def with_head(self, head: int) -> TableDesign:
        """The design with rows of `head` values; sections lose rows, or get them, from the last."""
        left = head + FIRST_VOCABULARY_ID
        sections = []
        for place, (rows, codec) in enumerate(self.sections):
            is_last = place == len(self.sections) - 1
            count = left if is_last or rows is None else min(rows, left)
            if count:
                sections.append((count, codec))
            left -= count
        return replace(self, head=head, sections=tuple(sections))

    def groups(self, values: int) -> tuple[int, ...]:
        """How many of the values that own a row have it in each section; empty without sections.

        Sections that hold rows of IDs 0 and 1 only are left out. Of places, the sizes of the
        groups.

        Raises:
            SpecError: the sections are for another number of rows.
        """
        if self.places:
            ends = [values * (n + 1) // PLACE_GROUPS for n in range(PLACE_GROUPS)]
            return tuple(b - a for a, b in itertools.pairwise([0, *ends]) if b > a)
        if not self.sections:
            return ()
        ends = list(itertools.accumulate(rows for rows, _ in self.section_rows(values)))
        values_before = [0, *(max(0, end - FIRST_VOCABULARY_ID) for end in ends)]
        return tuple(b - a for a, b in itertools.pairwise(values_before) if b > a)

    def section_rows(self, values: int) -> list[tuple[int, Codec]]:
        """Rows and codec of each section; none without sections.

        Raises:
            SpecError: the sections are for another number of rows.
        """
        if not self.sections:
            return []
        rows = self.rows_owned(values) + FIRST_VOCABULARY_ID
        resolved = resolve_sections(self._sections(), rows, self.dim)
        return [(section.rows or 0, section.codec) for section in resolved]

    def order(self, hashes: IdArray) -> IdArray:
        """Of raw values by falling frequency, the ranks in the order of their IDs: int64 [mapped].

        IDs are in the order of the values' hashes, within each group of `groups` if there are any.
        """
        owned = self.values_mapped(len(hashes))
        sizes = self.groups(len(hashes)) or (owned,)
        ranks: IdArray = np.lexsort((hashes[:owned], np.repeat(np.arange(len(sizes)), sizes)))
        return ranks

    def spec(self, values: int, *, ranked: bool) -> LookupSpec:
        """The lookup of a field with `values` training values or buckets; no ID is padding.

        IDs 0 and 1 (missing and unseen values; for a number, 1 is a missing value) have rows if any
        value owns a row. The code of a binary-code tail has the bits that ranked IDs need, or
        HASH_BLOCKS blocks of hashes.
        """
        if self.lookup is not None:
            return self.lookup
        own_rows = self.rows_owned(values)
        if self.tail == "shared" or own_rows == values:
            return full_spec(own_rows + FIRST_VOCABULARY_ID, self.dim, oov_row=OOV_ID)
        head = own_rows + FIRST_VOCABULARY_ID if own_rows else 0
        if self.tail == "hash":
            return hashing_spec(self.size, self.dim, head=head)
        if self.tail == "multi_hash":
            return multi_hash_spec(self.size, self.dim, hashes=HASHES, head=head)
        ids = values + FIRST_VOCABULARY_ID
        if self.tail == "quotient_remainder":
            return quotient_remainder_spec(ids, self.dim, remainders=self.size, head=head)
        bits = code_bits(values) if ranked else min(64, HASH_BLOCKS * self.size)
        return binary_code_spec(self.dim, code_bits=bits, t=min(self.size, bits), head=head)


def code_bits(values: int) -> int:
    """Bits of the ranked IDs of a field with `values` training values."""
    return max(1, (values + FIRST_VOCABULARY_ID - 1).bit_length())
