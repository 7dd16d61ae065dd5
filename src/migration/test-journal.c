/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/fd.h"
#include "migration/journal.h"

static const uint8_t secret[DIGEST_SIZE] = { 1, 2, 3 };

static int begin(journal *j, const char *id, bool source, bool direct) {
        return journal_begin(j, &(journal_opening){ .session_id = id,
                                                    .source = source,
                                                    .direct = direct,
                                                    .secret = secret });
}

typedef struct fixture {
        char path[40];
        int dir;
} fixture;

static int setup(void **state) {
        fixture *f = calloc(1, sizeof(*f));

        strcpy(f->path, "/tmp/ferry-journal-XXXXXX");
        assert_non_null(mkdtemp(f->path));
        f->dir = open(f->path, O_DIRECTORY | O_CLOEXEC);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        fixture *f = *state;

        (void)unlinkat(f->dir, "journal", 0);
        fd_close(f->dir);
        assert_int_equal(rmdir(f->path), 0);
        free(f);
        return 0;
}

static void test_the_cause_survives(void **state) {
        fixture *f = *state;
        _cleanup_(journal_freep) journal *j = NULL, *again = NULL;
        char tedious[2 * JOURNAL_CAUSE_TEXT_MAX];
        const journal_session *s;

        memset(tedious, 'x', sizeof(tedious) - 1);
        tedious[sizeof(tedious) - 1] = '\0';
        tedious[3] = '\n';
        assert_int_equal(journal_open(f->dir, &j, NULL), 0);
        assert_int_equal(journal_set_cause(j, JOURNAL_CAUSE_GUEST, 10, "it did"), -ENODATA);
        assert_int_equal(begin(j, "one", true, true), 0);
        assert_int_equal(journal_current(j)->cause.kind, JOURNAL_CAUSE_NONE);
        assert_int_equal(journal_set_cause(j, JOURNAL_CAUSE_NONE, 1, "it did"), -EINVAL);
        assert_int_equal(journal_set_cause(j, JOURNAL_CAUSE_GUEST, -1, "it did"), -EINVAL);
        assert_int_equal(journal_set_cause(j, JOURNAL_CAUSE_GUEST, 17, "it did"), -EINVAL);
        assert_int_equal(journal_set_cause(j, JOURNAL_CAUSE_GUEST, 10, "the guest: reset"), 0);
        assert_int_equal(journal_set_cause(j, JOURNAL_CAUSE_GUEST, 10, "again"), 0);
        assert_int_equal(journal_set(j, JOURNAL_RAN_AGAIN, true), 0);

        assert_int_equal(journal_open(f->dir, &again, NULL), 0);
        s = journal_current(again);
        assert_int_equal(s->mark, JOURNAL_RAN_AGAIN);
        assert_int_equal(s->cause.kind, JOURNAL_CAUSE_GUEST);
        assert_int_equal(s->cause.code, 10);
        assert_string_equal(s->cause.reason, "the guest: reset");
        again = journal_free(again);

        assert_int_equal(journal_set_cause(j, JOURNAL_CAUSE_FAILURE, 16, tedious), 0);
        assert_int_equal(journal_open(f->dir, &again, NULL), 0);
        s = journal_current(again);
        assert_int_equal(s->cause.kind, JOURNAL_CAUSE_FAILURE);
        assert_int_equal(strlen(s->cause.reason), JOURNAL_CAUSE_TEXT_MAX);
        assert_memory_equal(s->cause.reason, "xxx?xxx", 7);
        again = journal_free(again);

        /* the next session begins without one */
        assert_int_equal(journal_set_cause(j, JOURNAL_CAUSE_CANCELLED, 1, ""), 0);
        assert_int_equal(journal_end(j), 0);
        assert_int_equal(begin(j, "two", true, true), 0);
        assert_int_equal(journal_open(f->dir, &again, NULL), 0);
        assert_int_equal(journal_current(again)->cause.kind, JOURNAL_CAUSE_NONE);
}

static void test_marks_survive(void **state) {
        fixture *f = *state;
        _cleanup_(journal_freep) journal *j = NULL, *again = NULL;
        const journal_session *s;

        assert_int_equal(journal_open(f->dir, &j, NULL), 0);
        assert_null(journal_current(j));
        assert_int_equal(journal_set(j, JOURNAL_HANDED, true), -ENODATA);
        assert_int_equal(begin(j, "one", true, true), 0);
        assert_int_equal(begin(j, "two", true, true), -EBUSY);
        assert_int_equal(journal_set(j, JOURNAL_HANDED, true), 0);

        assert_int_equal(journal_open(f->dir, &again, NULL), 0);
        s = journal_current(again);
        assert_non_null(s);
        assert_string_equal(s->session_id, "one");
        assert_true(s->source && s->direct && s->this_boot && !s->closed);
        assert_int_equal(s->mark, JOURNAL_HANDED);
        assert_memory_equal(s->secret, secret, DIGEST_SIZE);
}

static void test_tombstones_stay(void **state) {
        fixture *f = *state;
        _cleanup_(journal_freep) journal *j = NULL, *again = NULL;

        assert_int_equal(journal_open(f->dir, &j, NULL), 0);
        assert_int_equal(begin(j, "one", false, false), 0);
        assert_int_equal(journal_set(j, JOURNAL_DECLINED, true), 0);
        assert_int_equal(journal_end(j), 0);
        assert_int_equal(begin(j, "two", true, false), 0);
        assert_int_equal(journal_open(f->dir, &again, NULL), 0);
        assert_true(journal_find(again, "one")->closed);
        assert_int_equal(journal_find(again, "one")->mark, JOURNAL_DECLINED);
        assert_string_equal(journal_current(again)->session_id, "two");
        assert_null(journal_find(again, "three"));
}

/* Cut the last line anywhere: what came before it holds, and the journal goes on. */
static void test_a_torn_line_never_was(void **state) {
        fixture *f = *state;
        _cleanup_(freep) char *whole = NULL;
        size_t n, before, after;

        {
                _cleanup_(journal_freep) journal *j = NULL;
                _cleanup_(freep) char *text = NULL;

                assert_int_equal(journal_open(f->dir, &j, NULL), 0);
                assert_int_equal(begin(j, "one", true, false), 0);
                assert_int_equal(file_read(f->dir, "journal", 1 << 20, &text, &n), 0);
                before = strlen(text);
                assert_int_equal(journal_set(j, JOURNAL_HANDED, true), 0);
        }
        assert_int_equal(file_read(f->dir, "journal", 1 << 20, &whole, &n), 0);
        after = strlen(whole);
        assert_int_equal(n, 65536);
        for (size_t cut = before; cut <= after; cut++) {
                _cleanup_(journal_freep) journal *j = NULL, *again = NULL;
                _cleanup_(freep) char *torn = calloc(1, n);

                memcpy(torn, whole, cut);
                assert_int_equal(file_replace(f->dir, "journal", torn, n, 0600, false), 0);
                assert_int_equal(journal_open(f->dir, &j, NULL), 0);
                assert_int_equal(journal_current(j)->mark,
                                 cut == after ? JOURNAL_HANDED : JOURNAL_OPEN);
                assert_int_equal(journal_set(j, JOURNAL_DONE, false), 0);
                assert_int_equal(journal_open(f->dir, &again, NULL), 0);
                assert_int_equal(journal_current(again)->mark, JOURNAL_DONE);
        }
}

static void test_a_damaged_file_is_refused(void **state) {
        fixture *f = *state;
        journal *j = NULL;

        assert_int_equal(file_replace(f->dir, "journal", "something else", 14, 0600, false), 0);
        assert_int_equal(journal_open(f->dir, &j, NULL), -EBADMSG);
        assert_null(j);
}

static void test_it_is_compacted(void **state) {
        fixture *f = *state;
        _cleanup_(journal_freep) journal *j = NULL;
        char id[32];
        size_t n;

        assert_int_equal(journal_open(f->dir, &j, NULL), 0);
        for (int i = 0; i < 2000; i++) {
                snprintf(id, sizeof(id), "session-%d", i);
                assert_int_equal(begin(j, id, i % 2, false), 0);
                assert_int_equal(journal_set(j, i % 2 ? JOURNAL_DONE : JOURNAL_DECLINED, false), 0);
                assert_int_equal(journal_end(j), 0);
        }
        journal_sessions(j, &n);
        assert_true(n <= JOURNAL_TOMBSTONES_MAX);
        assert_int_equal(journal_find(j, "session-1999")->mark, JOURNAL_DONE);
        assert_null(journal_find(j, "session-1"));
        j = journal_free(j);
        assert_int_equal(journal_open(f->dir, &j, NULL), 0);
        assert_int_equal(journal_find(j, "session-1998")->mark, JOURNAL_DECLINED);
}

static void test_records_are_authentic_or_refused(void **state) {
        journal_session s = { .session_id = "one", .source = true, .mark = JOURNAL_HANDED };
        char record[JOURNAL_RECORD_MAX], other[JOURNAL_RECORD_MAX];
        journal_mark mark;

        memcpy(s.secret, secret, DIGEST_SIZE);
        assert_int_equal(journal_record(&s, record), 0);
        assert_int_equal(journal_record_check(&s, record, strlen(record), &mark), 0);
        assert_int_equal(mark, JOURNAL_HANDED);
        for (size_t i = 0; i < strlen(record); i++) {
                strcpy(other, record);
                other[i] = other[i] == 'a' ? 'b' : 'a';
                assert_true(journal_record_check(&s, other, strlen(other), &mark) < 0);
                assert_true(journal_record_check(&s, record, i, &mark) < 0);
        }
        s.secret[0] ^= 1;
        assert_int_equal(journal_record_check(&s, record, strlen(record), &mark), -EKEYREJECTED);
        strcpy(s.session_id, "two");
        assert_int_equal(journal_record_check(&s, record, strlen(record), &mark), -EINVAL);
        s.mark = JOURNAL_OPEN;
        assert_int_equal(journal_record(&s, record), -ENODATA);
}

static void test_session_ids(void **state) {
        char longest[JOURNAL_SESSION_ID_MAX + 2];

        memset(longest, 'x', sizeof(longest));
        longest[JOURNAL_SESSION_ID_MAX + 1] = '\0';
        assert_false(journal_session_id_is_valid(longest));
        longest[JOURNAL_SESSION_ID_MAX] = '\0';
        assert_true(journal_session_id_is_valid(longest));
        assert_true(journal_session_id_is_valid("3F2504E0-4f89-41d3"));
        assert_false(journal_session_id_is_valid(""));
        assert_false(journal_session_id_is_valid("a b"));
        assert_false(journal_session_id_is_valid("a\nb"));
        assert_false(journal_session_id_is_valid("a/b"));
}

/* Only the last line can be torn. */
static void test_damage_before_a_whole_line_is_refused(void **state) {
        fixture *f = *state;
        _cleanup_(journal_freep) journal *j = NULL, *again = NULL;
        _cleanup_(freep) char *whole = NULL;
        char *handed;
        size_t n;

        assert_int_equal(journal_open(f->dir, &j, NULL), 0);
        assert_int_equal(begin(j, "one", true, false), 0);
        assert_int_equal(journal_set(j, JOURNAL_HANDED, true), 0);
        assert_int_equal(journal_set(j, JOURNAL_DONE, true), 0);
        assert_int_equal(file_read(f->dir, "journal", 1 << 20, &whole, &n), 0);
        handed = strstr(whole, "mark handed");
        assert_non_null(handed);
        *handed = 'n';
        assert_int_equal(file_replace(f->dir, "journal", whole, n, 0600, false), 0);
        assert_int_equal(journal_open(f->dir, &again, NULL), -EBADMSG);
}

static void test_the_same_mark_again_takes_no_room(void **state) {
        fixture *f = *state;
        _cleanup_(journal_freep) journal *j = NULL;

        assert_int_equal(journal_open(f->dir, &j, NULL), 0);
        assert_int_equal(begin(j, "one", false, false), 0);
        for (int i = 0; i < 10000; i++)
                assert_int_equal(journal_set(j, JOURNAL_DECLINED, false), 0);
        assert_int_equal(journal_end(j), 0);
        assert_int_equal(begin(j, "two", false, false), 0);
}

/* The session is over all the same, and the next one can begin when the disk takes lines again. */
static void test_an_end_that_cannot_be_written(void **state) {
        fixture *f = *state;
        _cleanup_(journal_freep) journal *j = NULL, *again = NULL;
        struct rlimit old, none;

        assert_int_equal(journal_open(f->dir, &j, NULL), 0);
        assert_int_equal(begin(j, "one", true, false), 0);
        assert_int_equal(journal_set(j, JOURNAL_RAN_AGAIN, true), 0);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
        none = (struct rlimit){ .rlim_cur = 0, .rlim_max = old.rlim_max };
        (void)signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
        assert_true(journal_end(j) < 0);
        assert_null(journal_current(j));
        assert_int_equal(begin(j, "two", true, false), -EBUSY);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_int_equal(begin(j, "two", true, false), 0);
        assert_int_equal(journal_open(f->dir, &again, NULL), 0);
        assert_true(journal_find(again, "one")->closed);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_marks_survive, setup, teardown),
                cmocka_unit_test_setup_teardown(test_the_cause_survives, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tombstones_stay, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_torn_line_never_was, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_damaged_file_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_it_is_compacted, setup, teardown),
                cmocka_unit_test(test_records_are_authentic_or_refused),
                cmocka_unit_test(test_session_ids),
                cmocka_unit_test_setup_teardown(test_damage_before_a_whole_line_is_refused, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(test_the_same_mark_again_takes_no_room, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(test_an_end_that_cannot_be_written, setup,
                                                teardown),
        };

        return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
