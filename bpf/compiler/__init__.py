# SPDX-License-Identifier: Apache-2.0
"""From C to loaded programs: BCC in a child process, and the cache of what it made."""
