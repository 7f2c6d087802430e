# SPDX-License-Identifier: Apache-2.0
"""A package, so that its tests have a lab in common (pytest's scope of that name). Python knows it by its own name
alone: it must not be that of another package."""
