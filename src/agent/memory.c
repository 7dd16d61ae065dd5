/* SPDX-License-Identifier: MIT */
#include "agent/memory.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "base/clock.h"

#define PAGE_SIZE    4096U
#define PAGE_WORDS   (PAGE_SIZE / sizeof(uint64_t) - 3)
#define PAGES_PER_MB (1024U * 1024 / PAGE_SIZE)
#define STEP_PAGES   16U
#define NAP_USEC     (2 * USEC_PER_MSEC)
#define LAG_USEC     (100 * USEC_PER_MSEC) /* behind by more: forget it instead of catching up */
#define TOLD_MAX     10U

typedef struct memory_page {
        uint64_t generation;
        uint64_t number;
        uint64_t checksum; /* of all words and both numbers */
        uint64_t words[PAGE_WORDS];
} memory_page;

_Static_assert(sizeof(memory_page) == PAGE_SIZE, "a page");

typedef struct memory_writer {
        memory_state *state;
        memory_page *pages;
        uint64_t n_pages;
        uint64_t next;       /* pages before it have this generation, the others the one before */
        uint64_t generation; /* of this pass, from 1; 0 = never written */
        unsigned n_told;
} memory_writer;

static uint64_t checksum_start(uint64_t number, uint64_t generation) {
        return generation * 0x9e3779b97f4a7c15ULL + number;
}

/* Rotated, so that words that changed places show too. */
static uint64_t checksum_add(uint64_t sum, uint64_t word) {
        return (sum << 1 | sum >> 63) + word;
}

static uint64_t checksum_of(const memory_page *page) {
        uint64_t sum = checksum_start(page->number, page->generation);

        for (size_t i = 0; i < PAGE_WORDS; i++)
                sum = checksum_add(sum, page->words[i]);
        return sum;
}

static void page_write(memory_page *page, uint64_t number, uint64_t generation) {
        uint64_t word = (generation << 32 ^ number) * 0xd1342543de82ef95ULL + 1;
        uint64_t sum = checksum_start(number, generation);

        page->generation = generation;
        page->number = number;
        for (size_t i = 0; i < PAGE_WORDS; i++) {
                page->words[i] = word;
                sum = checksum_add(sum, word);
                word += 0x9e3779b97f4a7c15ULL;
        }
        page->checksum = sum;
}

static void page_check(memory_writer *w, uint64_t number) {
        const memory_page *page = &w->pages[number];
        uint64_t expected = number < w->next ? w->generation : w->generation - 1;

        if (expected == 0)
                return;
        if (page->generation == expected && page->number == number &&
            page->checksum == checksum_of(page))
                return;
        atomic_fetch_add(&w->state->errors, 1);
        if (w->n_told++ >= TOLD_MAX)
                return;
        (void)fprintf(
                stderr,
                "memory error: page %llu generation %llu, found page %llu generation %llu%s\n",
                (unsigned long long)number, (unsigned long long)expected,
                (unsigned long long)page->number, (unsigned long long)page->generation,
                page->checksum == checksum_of(page) ? "" : ", checksum wrong");
}

static void write_some(memory_writer *w) {
        for (unsigned i = 0; i < STEP_PAGES; i++) {
                page_check(w, w->next);
                page_write(&w->pages[w->next], w->next, w->generation);
                w->next++;
                if (w->next == w->n_pages) {
                        w->next = 0;
                        w->generation++;
                        atomic_fetch_add(&w->state->passes, 1);
                }
        }
        atomic_fetch_add(&w->state->bytes, (unsigned long long)STEP_PAGES * PAGE_SIZE);
}

static void check_all_if_wanted(memory_writer *w) {
        unsigned wanted = atomic_load(&w->state->checks_wanted);

        if (wanted == atomic_load(&w->state->checks_done))
                return;
        for (uint64_t i = 0; i < w->n_pages; i++)
                page_check(w, i);
        atomic_store(&w->state->checks_done, wanted);
}

static _Noreturn void write_for_ever(memory_writer *w) {
        const uint64_t step = (uint64_t)STEP_PAGES * PAGE_SIZE;
        uint64_t due = now_usec(); /* when the next step may be written */
        long rate = MEMORY_RATE_PAUSE;

        for (;;) {
                uint64_t now = now_usec();
                long wanted = atomic_load(&w->state->rate_mb);

                check_all_if_wanted(w);
                if (wanted != rate || now > due + LAG_USEC)
                        due = now;
                rate = wanted;
                if (rate == MEMORY_RATE_PAUSE || (rate > 0 && now < due)) {
                        (void)usleep(NAP_USEC);
                        continue;
                }
                write_some(w);
                if (rate > 0)
                        due += step * USEC_PER_SEC / ((uint64_t)rate * 1024 * 1024);
        }
}

int memory_start(long size_mb, long rate_mb, memory_state **ret) {
        memory_writer w = { .n_pages = (uint64_t)size_mb * PAGES_PER_MB, .generation = 1 };
        pid_t parent = getpid(), pid;

        w.state = mmap(NULL, sizeof(*w.state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                       -1, 0);
        if (w.state == MAP_FAILED)
                return -errno;
        atomic_store(&w.state->rate_mb, rate_mb);
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid > 0) {
                *ret = w.state;
                return 0;
        }
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(0);
        w.pages = mmap(NULL, w.n_pages * PAGE_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (w.pages == MAP_FAILED) {
                (void)fprintf(stderr, "memory error: cannot map %ld MB\n", size_mb);
                atomic_fetch_add(&w.state->errors, 1);
                _exit(1);
        }
        write_for_ever(&w);
}
