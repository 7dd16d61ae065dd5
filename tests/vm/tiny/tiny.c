/* SPDX-License-Identifier: MIT */

/* A guest that proves that its memory came over whole (README.md).
 *
 * It rewrites `wss` pages one after the other, for ever. A page holds its number and its
 * generation, stamped at both ends, and between them a filling that depends on the page alone. In
 * generation g with the cursor at c, pages below c are of generation g and the others of g - 1: at
 * most one edge. Each page is checked just before it is rewritten, all of them on demand. A page
 * that a migration lost, tore, or sent stale breaks the rule, with no operating system needed. */

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

#define PAGE_SIZE     4096U
#define PAGE_WORDS    (PAGE_SIZE / 4)
#define STAMP_WORDS   3
#define FILL_END      (PAGE_WORDS - STAMP_WORDS)
#define BASE          0x200000U
#define LOW_MEMORY    0x1000000U /* trusted to be there when the loader gives no memory map */
#define CMDLINE_MAX   255U
#define TICK_HZ       100U /* under TCG each tick costs the host half a millisecond */
#define RATE_MAX      10000000U
#define RATE_FLAT_OUT UINT32_MAX
#define BATCH         256U

/* Xen's hvm_start_info and its memory map, as far as used. */
struct start_info {
        uint32_t magic, version, flags, n_modules;
        uint64_t modules, cmdline, rsdp, memory_map;
        uint32_t n_memory_map, reserved;
};

struct memory_range {
        uint64_t address, size;
        uint32_t type, reserved; /* type 1: usable */
};

/* All state is here: it travels like the pages. */
static struct {
        uint32_t *pages;
        uint32_t n_pages, filled; /* filled: 1, or 0 for pages that compress well */
        uint32_t generation, cursor, errors;
        uint32_t rate;
        uint64_t touched, beats;
} guest;

void tiny_main(const struct start_info *info);

/* The compiler may turn loops into calls of these. */
void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);

void *memset(void *to, int byte, size_t n) {
        void *p = to;

        __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(byte) : "memory");
        return to;
}

void *memcpy(void *to, const void *from, size_t n) {
        void *p = to;

        __asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(n)::"memory");
        return to;
}

static uint32_t mix(uint32_t n) {
        n ^= n >> 16;
        n *= 0x7feb352dU;
        n ^= n >> 15;
        n *= 0x846ca68bU;
        return n ^ n >> 16;
}

static uint32_t *page_at(uint32_t number) {
        return guest.pages + (size_t)number * PAGE_WORDS;
}

static void page_stamp(uint32_t number, uint32_t generation) {
        uint32_t *page = page_at(number), sum = mix(generation ^ mix(number));

        page[0] = page[FILL_END] = generation;
        page[1] = page[FILL_END + 1] = number;
        page[2] = page[FILL_END + 2] = sum;
}

static bool page_stamp_is(uint32_t number, uint32_t generation) {
        const uint32_t *page = page_at(number);
        uint32_t sum = mix(generation ^ mix(number));

        return page[0] == generation && page[1] == number && page[2] == sum &&
               page[FILL_END] == generation && page[FILL_END + 1] == number &&
               page[FILL_END + 2] == sum;
}

static uint32_t fill_first(uint32_t number) {
        return mix(number + 0x9e3779b9U) | 1;
}

static uint32_t fill_next(uint32_t word) {
        word ^= word << 13;
        word ^= word >> 17;
        return word ^ word << 5;
}

static void page_fill(uint32_t number) {
        uint32_t *page = page_at(number), word = guest.filled ? fill_first(number) : 0;

        for (uint32_t i = STAMP_WORDS; i < FILL_END; i++, word = fill_next(word))
                page[i] = word;
}

static bool page_fill_is_right(uint32_t number) {
        const uint32_t *page = page_at(number);
        uint32_t word = guest.filled ? fill_first(number) : 0;

        for (uint32_t i = STAMP_WORDS; i < FILL_END; i++, word = fill_next(word))
                if (page[i] != word)
                        return false;
        return true;
}

static uint32_t expected_generation(uint32_t number) {
        return number < guest.cursor ? guest.generation : guest.generation - 1;
}

static void report_bad(const char *head, uint32_t number) {
        serial_put(head);
        serial_put(" page=");
        serial_put_number(number);
        serial_put(" gen=");
        serial_put_number(page_at(number)[0]);
        serial_put(" want=");
        serial_put_number(expected_generation(number));
        serial_put("\n");
}

static void touch(uint32_t n) {
        while (n--) {
                if (!page_stamp_is(guest.cursor, guest.generation - 1)) {
                        guest.errors++;
                        report_bad("E", guest.cursor);
                }
                page_stamp(guest.cursor, guest.generation);
                guest.touched++;
                if (++guest.cursor == guest.n_pages) {
                        guest.cursor = 0;
                        guest.generation++;
                }
        }
}

static void check_all(void) {
        (void)machine_time();
        for (uint32_t i = 0; i < guest.n_pages; i++) {
                if (!page_stamp_is(i, expected_generation(i)) || !page_fill_is_right(i)) {
                        report_bad("C BAD", i);
                        return;
                }
                if (i % 4096 == 0)
                        (void)machine_time();
        }
        serial_put("C ok gen=");
        serial_put_number(guest.generation);
        serial_put(" pages=");
        serial_put_number(guest.n_pages);
        serial_put("\n");
}

static void beat(void) {
        serial_put("H ");
        serial_put_number(guest.beats++);
        serial_put(" pages=");
        serial_put_number(guest.touched);
        serial_put(" gen=");
        serial_put_number(guest.generation);
        serial_put(" errors=");
        serial_put_number(guest.errors);
        serial_put("\n");
}

static void obey(int byte) {
        static const uint32_t presets[] = {
                0, 100, 1000, 5000, 10000, 20000, 50000, 100000, 500000, RATE_FLAT_OUT,
        };

        if (byte >= '0' && byte <= '9')
                guest.rate = presets[byte - '0'];
        else if (byte == 'c')
                check_all();
        else if (byte == 's')
                beat();
        else if (byte == 'b') /* breaks a page, so that a test can see that `c` would notice */
                page_at(guest.n_pages / 2)[PAGE_WORDS / 2] ^= 1;
        else if (byte == 'p')
                machine_power_off();
        else if (byte == 'r')
                machine_reset();
}

/* `NAME=` at the start or after a space: its number, "max" as RATE_FLAT_OUT, else `otherwise`. */
static uint32_t option(const char *cmdline, const char *name, uint32_t otherwise) {
        for (const char *p = cmdline; *p; p++) {
                const char *q = p, *n = name;
                uint64_t value = 0;

                if (p != cmdline && p[-1] != ' ')
                        continue;
                while (*n && *q == *n)
                        q++, n++;
                if (*n || *q != '=')
                        continue;
                if (q[1] == 'm')
                        return RATE_FLAT_OUT;
                for (q++; *q >= '0' && *q <= '9' && value < UINT32_MAX; q++)
                        value = value * 10 + (uint32_t)(*q - '0');
                return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
        }
        return otherwise;
}

/* Bytes of usable memory from BASE on. */
static uint32_t memory_behind(const struct start_info *info, uint32_t base) {
        const struct memory_range *map = (const void *)(uintptr_t)info->memory_map;
        uint64_t end = LOW_MEMORY;

        for (uint32_t i = 0; info->version >= 1 && map && i < info->n_memory_map; i++)
                if (map[i].type == 1 && map[i].address <= base &&
                    map[i].address + map[i].size > base)
                        end = map[i].address + map[i].size;
        if (end > 0xc0000000U)
                end = 0xc0000000U;
        return end > base ? (uint32_t)end - base : 0;
}

static void start(const char *cmdline, uint32_t available) {
        guest.rate = option(cmdline, "rate", 1000);
        if (guest.rate > RATE_MAX)
                guest.rate = RATE_FLAT_OUT;
        guest.n_pages = option(cmdline, "wss", 1024);
        if (guest.n_pages > available / PAGE_SIZE)
                guest.n_pages = available / PAGE_SIZE;
        if (guest.n_pages == 0)
                guest.n_pages = 1;
        guest.filled = option(cmdline, "fill", 1) != 0;
        guest.pages = (uint32_t *)(uintptr_t)BASE;

        serial_put("\nTINY base="); /* the firmware may have left a line open */
        serial_put_hex(BASE);
        serial_put(" wss=");
        serial_put_number(guest.n_pages);
        serial_put(" rate=");
        if (guest.rate == RATE_FLAT_OUT)
                serial_put("max");
        else
                serial_put_number(guest.rate);
        serial_put("\n");
        serial_flush();

        guest.generation = 2;
        for (uint32_t i = 0; i < guest.n_pages; i++) {
                page_fill(i);
                page_stamp(i, 1);
        }
}

/* Touches what `rate` allows for `passed` ticks of the clock. What it could not do in time (the
 * host was busy, the guest stopped) is dropped, not caught up in a burst. */
static void work(uint64_t passed) {
        static uint64_t credit; /* pages times PM_TIMER_HZ */
        uint64_t n;

        if (guest.rate == RATE_FLAT_OUT) {
                touch(BATCH);
                return;
        }
        if (passed > PM_TIMER_HZ / 20)
                passed = PM_TIMER_HZ / 20;
        n = credit + passed * guest.rate;
        credit = divide(&n, PM_TIMER_HZ);
        touch((uint32_t)n);
}

void tiny_main(const struct start_info *info) {
        char cmdline[CMDLINE_MAX + 1] = "";
        const char *from = (const char *)(uintptr_t)info->cmdline;
        uint64_t now, last, beat_due, period;
        uint32_t available = memory_behind(info, BASE);

        for (unsigned i = 0; from && i < CMDLINE_MAX && from[i]; i++)
                cmdline[i] = from[i]; /* the loader's memory may be ours soon */
        machine_init_serial();
        machine_init_tick(TICK_HZ);
        period = (uint64_t)option(cmdline, "hb", 100) * PM_TIMER_HZ;
        divide(&period, 1000);
        start(cmdline, available);

        last = machine_time();
        for (beat_due = last;;) {
                for (int byte; (byte = serial_get()) >= 0;)
                        obey(byte);
                now = machine_time();
                work(now - last);
                last = now;
                if (period && now >= beat_due) {
                        beat();
                        beat_due += period;
                        if (beat_due <= now) /* late: no burst of beats */
                                beat_due = now + period;
                }
                serial_flush();
                if (guest.rate != RATE_FLAT_OUT)
                        machine_wait();
        }
}
