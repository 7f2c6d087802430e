# SPDX-License-Identifier: Apache-2.0
"""The socket that makes the service `discard` healthy; frames.py opens one at the VIP, which takes the datagrams."""

import signal
import socket

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread:
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    unread.bind(("", 9))
    signal.pause()
