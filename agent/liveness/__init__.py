# SPDX-License-Identifier: Apache-2.0
"""Who answers: every node asks the others' data paths, by echo questions, and judges who is silent."""
