/* SPDX-License-Identifier: MIT */
#pragma once

/* What each target defines: libFuzzer calls it, or fuzz-main.c with what is in corpus/. */

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Not assert(): it must hold in a release too. */
#define FUZZ_REQUIRE(condition)                                                                    \
        do {                                                                                       \
                if (!(condition))                                                                  \
                        __builtin_trap();                                                          \
        } while (0)
