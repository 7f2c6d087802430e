# SPDX-License-Identifier: Apache-2.0
"""containerlab files brought up as network namespaces."""
