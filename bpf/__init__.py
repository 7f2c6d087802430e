# SPDX-License-Identifier: Apache-2.0
"""The data path: the XDP program, how it is compiled and attached, and the maps it reads.

`datapath.DataPath` is the way in, `tables.Tables` what the agent fills, `layout` their vocabulary.
"""
