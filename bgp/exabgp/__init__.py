# SPDX-License-Identifier: Apache-2.0
"""ExaBGP as a process: its configuration, start and reload, and the messages of its helper API."""
