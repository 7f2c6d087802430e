# SPDX-License-Identifier: Apache-2.0
"""lb.yml: its schema, and its errors as file:line:column: field."""
