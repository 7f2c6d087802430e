# SPDX-License-Identifier: Apache-2.0
"""Programs on interfaces: XDP links and tc filters, attached, replaced and removed."""
