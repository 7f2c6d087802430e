# SPDX-License-Identifier: Apache-2.0
"""From the members of a service to its rows, and which epoch's rows are used. Pure."""
