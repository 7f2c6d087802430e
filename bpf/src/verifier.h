/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs do for the kernel's verifier alone.
 *
 * The verifier walks every path through the program, and knows on each of them what the path has written: that there
 * was a tag, that the family is 6. Where paths meet, it would walk all the rest once for each of them, a million steps
 * and more. So the program makes it forget there: a value xor a 0 that it cannot know is a value that it does not know.
 * (A sum does not do: it keeps the value as its minimum.)
 */
#pragma once

#define FORGET(conf, value) ((value) ^= (conf)->zero)
