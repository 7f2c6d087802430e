# SPDX-License-Identifier: Apache-2.0
"""From the members of a service to its rows, and the epochs whose rows are used. Pure."""
