# SPDX-License-Identifier: Apache-2.0
"""The connections that this node holds: dumped from the kernel, and counted in the rows of each service."""
