# SPDX-License-Identifier: Apache-2.0
"""bpf(2): maps, programs and links, as the kernel has them."""
