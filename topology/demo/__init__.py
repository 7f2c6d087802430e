# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a cluster, its failures, and what became of the connections."""
