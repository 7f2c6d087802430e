# SPDX-License-Identifier: Apache-2.0
"""The state of the data path: rows, next hops and the MSS limit, written into the kernel's maps."""
