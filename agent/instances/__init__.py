# SPDX-License-Identifier: Apache-2.0
"""The instances of a service on this node: server processes that share a port, found and chosen among."""
