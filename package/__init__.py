# SPDX-License-Identifier: Apache-2.0
"""The Debian package: how it is built, and its manual pages. It is no part of it."""
