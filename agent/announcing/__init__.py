# SPDX-License-Identifier: Apache-2.0
"""What the routers are told: decided, ordered, said, and compared with what they hold."""
