# SPDX-License-Identifier: Apache-2.0
"""What the data path is told: rows, next hops and the MSS, brought into the kernel."""
