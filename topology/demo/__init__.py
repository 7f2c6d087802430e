# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a cluster, its failures, and how many connections each of them breaks."""
