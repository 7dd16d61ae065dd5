/* SPDX-License-Identifier: MIT */

/* What a journal may hold after anything happened to the disk. Each line of the input gets its
 * checksum here, else nothing behind it would ever be reached. A journal that is taken must go on
 * working, and say the same when it is opened again. */

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/fd.h"
#include "fuzz.h"
#include "migration/journal.h"

#define HEAD       "FERRYJOURNAL1\n"
#define FILE_SIZE  65536U
#define CHECK_SIZE 16U

static int folder_fd = -EBADF;

/* Lines of `data` with their checksums, as far as they fit. */
static void write_journal(const uint8_t *data, size_t n) {
        static char file[FILE_SIZE];
        size_t used = strlen(HEAD);

        memset(file, 0, sizeof(file));
        memcpy(file, HEAD, used);
        while (n > 0) {
                const uint8_t *end = memchr(data, '\n', n);
                size_t n_line = end ? (size_t)(end - data) : n;
                char hex[CHECK_SIZE + 1];
                uint8_t digest[DIGEST_SIZE];

                if (CHECK_SIZE + 2 + n_line > FILE_SIZE - used)
                        break;
                digest_sha256(data, n_line, digest);
                hex_encode(digest, CHECK_SIZE / 2, hex);
                memcpy(file + used, hex, CHECK_SIZE);
                file[used + CHECK_SIZE] = ' ';
                memcpy(file + used + CHECK_SIZE + 1, data, n_line);
                file[used + CHECK_SIZE + 1 + n_line] = '\n';
                used += CHECK_SIZE + 2 + n_line;
                data += n_line + (end ? 1 : 0);
                n -= n_line + (end ? 1 : 0);
        }
        FUZZ_REQUIRE(file_replace(folder_fd, "journal", file, sizeof(file), 0600, false) == 0);
}

static void require_same(const journal *j) {
        _cleanup_(journal_freep) journal *again = NULL;
        const journal_session *a, *b;
        size_t n_a, n_b;

        FUZZ_REQUIRE(journal_open(folder_fd, &again, NULL) == 0);
        a = journal_sessions(j, &n_a);
        b = journal_sessions(again, &n_b);
        FUZZ_REQUIRE(n_a == n_b);
        for (size_t i = 0; i < n_a; i++) {
                FUZZ_REQUIRE(strcmp(a[i].session_id, b[i].session_id) == 0);
                FUZZ_REQUIRE(a[i].mark == b[i].mark && a[i].source == b[i].source);
                FUZZ_REQUIRE(a[i].closed == b[i].closed);
        }
        FUZZ_REQUIRE(!journal_current(j) == !journal_current(again));
        if (journal_current(j)) {
                const journal_cause *own = &journal_current(j)->cause,
                                    *read = &journal_current(again)->cause;

                FUZZ_REQUIRE(own->kind == read->kind && own->code == read->code);
                FUZZ_REQUIRE(strcmp(own->reason, read->reason) == 0);
        }
}

static void try_journal(void) {
        static const uint8_t secret[DIGEST_SIZE] = { 1 };
        _cleanup_(journal_freep) journal *j = NULL;

        if (journal_open(folder_fd, &j, NULL) < 0)
                return;
        require_same(j);
        if (journal_current(j)) {
                FUZZ_REQUIRE(journal_set(j, JOURNAL_HANDED, false) == 0);
                FUZZ_REQUIRE(journal_set_cause(j, JOURNAL_CAUSE_GUEST, 10, "it\n did") == 0);
                require_same(j);
                FUZZ_REQUIRE(journal_end(j) == 0);
        }
        if (journal_begin(j, &(journal_opening){ .session_id = "next",
                                                 .source = true,
                                                 .secret = secret }) == 0) {
                const journal_session *current = journal_current(j);

                FUZZ_REQUIRE(current && strcmp(current->session_id, "next") == 0);
                FUZZ_REQUIRE(current->mark == JOURNAL_OPEN);
        }
        require_same(j);
}

/* A folder each time: libFuzzer's end is none that could remove one. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        char folder[] = "/tmp/ferry-fuzz-journal-XXXXXX";

        FUZZ_REQUIRE(mkdtemp(folder));
        folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        FUZZ_REQUIRE(folder_fd >= 0);
        write_journal(data, n);
        try_journal();
        unlinkat(folder_fd, "journal", 0);
        folder_fd = fd_close(folder_fd);
        FUZZ_REQUIRE(rmdir(folder) == 0);
        return 0;
}
