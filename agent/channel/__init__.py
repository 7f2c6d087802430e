# SPDX-License-Identifier: Apache-2.0
"""The channel: by it each agent sends all others what its node serves. Authenticated, acknowledged, pure."""
