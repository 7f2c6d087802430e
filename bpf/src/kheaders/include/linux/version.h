/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * BCC's helpers.h puts this into the program's "version" section, which the kernel reads for kprobes only.
 */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
