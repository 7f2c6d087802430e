# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `xdp:`: how the data path attaches. Owns the schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from agent.config.fields import Section


class XdpConfig(Section):
    """How the data path attaches."""

    # An unquoted off is a boolean in YAML 1.1.
    mode: Annotated[
        Literal["auto", "native", "generic", "off"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "auto"
    """How the program attaches: `native` in the driver, `generic` in the network stack (slower, any interface), `auto`
    the first that works. With `off` the node is plain anycast: it announces, and forwards nothing. Example:
    `native`."""
