# SPDX-License-Identifier: Apache-2.0
"""The relay: a helper of ExaBGP that advertises the routes the agent desires and reports those that routers send."""
