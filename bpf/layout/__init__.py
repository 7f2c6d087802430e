# SPDX-License-Identifier: Apache-2.0
"""What the C programs and Python share: structs, limits, counters, and how each map is made. Pure."""
