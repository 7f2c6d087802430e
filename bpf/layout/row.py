# SPDX-License-Identifier: Apache-2.0
"""A row: its chain of nodes, as indexes into the node table, owner first, 0 after the last."""

from typing import Final

from bpf.layout.c_struct import CStruct
from bpf.layout.limits import CHAIN

ROW_STRUCT: Final = CStruct("row", (("node", f"{CHAIN}H"),))
