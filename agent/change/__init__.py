# SPDX-License-Identifier: Apache-2.0
"""A change of the configuration: what differs, in which steps it is applied, and when it is taken back."""
