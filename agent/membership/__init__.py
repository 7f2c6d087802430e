# SPDX-License-Identifier: Apache-2.0
"""Who the other nodes are: what is heard of them, what is believed, and asking them directly."""
