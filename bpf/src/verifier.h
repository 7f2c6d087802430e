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

/* The same at this very place: clang may put FORGET() off until the value is used. */
#define FORGET_NOW(conf, value)                                                                                        \
	do {                                                                                                           \
		u64 unknown = (value) ^ (conf)->zero;                                                                  \
		asm volatile("" : "+r"(unknown));                                                                      \
		(value) = unknown;                                                                                     \
	} while (0)

#if NAT
/*
 * Return all bits if the number is negative, else 0; `zero` is conf->zero. In assembly: of a shift clang makes a
 * branch. And Linux 6.18 would walk the rest once for each of two values that it knows.
 */
static __always_inline u64 sign_of(u64 number, u32 zero)
{
	asm("%0 s>>= 63" : "+r"(number));
	return number ^ zero;
}
#endif
