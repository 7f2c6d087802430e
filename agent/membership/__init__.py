# SPDX-License-Identifier: Apache-2.0
"""Membership: the identities that nodes exchange by BGP, the view that follows from them, and direct probes."""
