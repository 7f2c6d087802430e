# SPDX-License-Identifier: Apache-2.0
"""Announcing and learning routes: ExaBGP's configuration, the relay beside it, and what a route carries."""
