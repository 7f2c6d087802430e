# SPDX-License-Identifier: Apache-2.0
"""The agent as a process: start, signals, reload, lock, runtime."""
