# SPDX-License-Identifier: Apache-2.0
"""Labs: containerlab files brought up as network namespaces, their traffic, and the demo."""
