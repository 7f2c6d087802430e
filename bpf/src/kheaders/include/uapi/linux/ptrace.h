/* SPDX-License-Identifier: GPL-2.0-only */
/* Left empty: BCC brings its own, or includes this without need. */
