# SPDX-License-Identifier: Apache-2.0
"""The rules of the C programs in Python, for `lbctl explain` and for the tests."""
