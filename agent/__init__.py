# SPDX-License-Identifier: Apache-2.0
"""The daemon of a node and its command line. The only package that translates between the three leaves."""
