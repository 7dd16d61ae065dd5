/* SPDX-License-Identifier: MIT */
#pragma once

/* What the tiny guest needs of a q35: port I/O, the tick, a clock, COM1, power.
 *
 * The clock is the ACPI PM timer: 3.579545 MHz of QEMU's virtual clock, so it stops with the guest
 * and goes on after a migration with no calibration and no drift between hosts (a TSC would). */

#include <stdbool.h>
#include <stdint.h>

#define PM_TIMER_HZ 3579545U

static inline void outb(uint16_t port, uint8_t value) {
        __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port) {
        uint8_t value;

        __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
        return value;
}

static inline void outw(uint16_t port, uint16_t value) {
        __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value) {
        __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint32_t inl(uint16_t port) {
        uint32_t value;

        __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
        return value;
}

/* Divides in place and returns the remainder; there is no libgcc to do it. */
static inline uint32_t divide(uint64_t *n, uint32_t by) {
        uint32_t high = (uint32_t)(*n >> 32), low = (uint32_t)*n, rest = high % by;

        high /= by;
        __asm__("divl %2" : "+a"(low), "+d"(rest) : "r"(by));
        *n = (uint64_t)high << 32 | low;
        return rest;
}

/* Serial port first, then interrupts: a tick of `hz`, and bytes on the serial port. */
void machine_init_serial(void);
void machine_init_tick(uint32_t hz);

/* Sleeps until the next tick or byte. */
void machine_wait(void);

/* PM timer ticks since the first call; must be called every 4 s or the hardware wraps unseen. */
uint64_t machine_time(void);

/* What is put goes out, line by line, with serial_flush(), as far as the other end takes it: a
 * console that nobody reads loses lines, and never holds up the guest. */
void serial_flush(void);
void serial_put(const char *text);
void serial_put_number(uint64_t n);
void serial_put_hex(uint32_t n);

/* The next byte that came in, or -1. */
int serial_get(void);

__attribute__((noreturn)) void machine_power_off(void);
__attribute__((noreturn)) void machine_reset(void);
