# SPDX-License-Identifier: Apache-2.0
"""A C struct as Python packs and unpacks it: the formats and offsets of its fields."""

from dataclasses import dataclass
from functools import cached_property
from struct import Struct


@dataclass(frozen=True)
class CStruct:
    """A C struct: its name and its fields with their `struct` formats, padding included.

    Big-endian fields are bytes here ("16s", "2s"): addresses and ports are in network order. Where all fields are
    numbers in network order, `order` is "!".
    """

    name: str
    fields: tuple[tuple[str, str], ...]
    order: str = "="

    @cached_property
    def codec(self) -> Struct:
        """All fields in order."""
        return Struct(self.order + "".join(form for _, form in self.fields))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.codec.size

    def offsets(self) -> dict[str, int]:
        """Return each field's offset in bytes."""
        forms = [form for _, form in self.fields]
        return {name: Struct("=" + "".join(forms[:i])).size for i, (name, _) in enumerate(self.fields)}
