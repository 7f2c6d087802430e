# SPDX-License-Identifier: Apache-2.0
"""The data path: the XDP program, how it is compiled and attached, and the maps that it reads.

Start with attach/datapath.py: `DataPath` opens all of it. The agent fills its `maps`; layout/ defines what they hold.
"""
