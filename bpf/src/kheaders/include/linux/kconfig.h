/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC force-includes this and takes its presence for "here are kernel headers". */
#define CONFIG_BPF_SYSCALL 1
