# SPDX-License-Identifier: Apache-2.0
"""BGP and BFD on a node: the ExaBGP speaker, its helper processes, and the routes that they advertise and learn."""
