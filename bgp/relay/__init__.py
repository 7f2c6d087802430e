# SPDX-License-Identifier: Apache-2.0
"""The relay: a helper of ExaBGP that announces what the agent desires and reports what routers send."""
