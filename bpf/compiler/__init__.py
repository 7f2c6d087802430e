# SPDX-License-Identifier: Apache-2.0
"""From C to loaded programs. BCC compiles in child processes: LLVM's 120 MB must not stay in a daemon."""
