# SPDX-License-Identifier: Apache-2.0
"""The reference implementation: the rules of the C programs in Python, for `lbctl explain` and for the tests."""
