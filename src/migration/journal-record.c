/* SPDX-License-Identifier: MIT */
/* A session's mark as the other side's word for it, signed with what only the two know. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "migration/journal.h"

static void record_mac(const journal_session *s, const char *mark, uint8_t ret[DIGEST_SIZE]) {
        digest_part parts[] = {
                { "ferry record 1", 14 },
                { s->session_id, strlen(s->session_id) },
                { mark, strlen(mark) },
        };

        digest_hmac(s->secret, parts, ELEMENTS(parts), ret);
}

int journal_record(const journal_session *session, char ret[JOURNAL_RECORD_MAX]) {
        journal_mark mark = session->mark == JOURNAL_DONE ? JOURNAL_HANDED : session->mark;
        char hex[2 * DIGEST_SIZE + 1];
        uint8_t mac[DIGEST_SIZE];

        if (mark != JOURNAL_HANDED && mark != JOURNAL_TAKEN && mark != JOURNAL_RUNNING &&
            mark != JOURNAL_DECLINED)
                return -ENODATA;
        record_mac(session, journal_mark_name(mark), mac);
        hex_encode(mac, DIGEST_SIZE, hex);
        snprintf(ret, JOURNAL_RECORD_MAX, "ferry-record-1 %s %s %s", session->session_id,
                 journal_mark_name(mark), hex);
        return 0;
}

int journal_record_check(const journal_session *session, const void *record, size_t n,
                         journal_mark *ret_mark) {
        static const journal_mark marks[] = { JOURNAL_HANDED, JOURNAL_TAKEN, JOURNAL_RUNNING,
                                              JOURNAL_DECLINED };
        char text[JOURNAL_RECORD_MAX], *save = NULL, *word[4];
        uint8_t mac[DIGEST_SIZE], expected[DIGEST_SIZE];

        if (n == 0 || n >= sizeof(text) || memchr(record, '\0', n))
                return -EBADMSG;
        memcpy(text, record, n);
        text[n] = '\0';
        for (size_t i = 0; i < ELEMENTS(word); i++) {
                word[i] = strtok_r(i == 0 ? text : NULL, " ", &save);
                if (!word[i])
                        return -EBADMSG;
        }
        if (strcmp(word[0], "ferry-record-1") != 0 ||
            hex_decode(word[3], strlen(word[3]), mac, DIGEST_SIZE) < 0)
                return -EBADMSG;
        if (strcmp(word[1], session->session_id) != 0)
                return -EINVAL;
        for (size_t i = 0; i < ELEMENTS(marks); i++) {
                if (strcmp(word[2], journal_mark_name(marks[i])) != 0)
                        continue;
                record_mac(session, word[2], expected);
                if (!digest_equal(mac, expected))
                        return -EKEYREJECTED;
                *ret_mark = marks[i];
                return 0;
        }
        return -EBADMSG;
}
