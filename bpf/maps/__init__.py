# SPDX-License-Identifier: Apache-2.0
"""The maps of the data path, which the agent fills: maps.Maps holds them, and each has a module here."""
