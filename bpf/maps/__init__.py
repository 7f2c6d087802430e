# SPDX-License-Identifier: Apache-2.0
"""The maps of a data path: opened, filled, and read back."""
