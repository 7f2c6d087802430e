# SPDX-License-Identifier: Apache-2.0
"""What the C programs and Python share: structs, limits, counters, and how each map is made. Pure.

Each struct of lb.h has its encoding in one module here. c_assertion.py renders them as C assertions that every compile
checks: a difference between this folder and lb.h is a compile error, not a wrong packet.
"""
