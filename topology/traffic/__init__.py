# SPDX-License-Identifier: Apache-2.0
"""A client that holds connections, the server that answers it, and the count of broken connections."""
