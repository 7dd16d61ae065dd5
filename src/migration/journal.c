/* SPDX-License-Identifier: MIT */
#include "migration/journal.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"

/*
 * "FERRYJOURNAL1\n", then lines "CHECK TEXT\n", then NULs to the end of the file. CHECK is the
 * first 16 hex digits of TEXT's SHA-256. TEXT is one of
 *   open ID source|destination caller|direct[+postcopy][+psk|+x509] BOOT SECRET
 *   mark NAME
 *   cause KIND CODE WORDS
 *   close
 * and the last three speak of the session that was opened last.
 */
#define FILE_NAME  "journal"
#define FILE_SIZE  65536U
#define FILE_HEAD  "FERRYJOURNAL1\n"
#define CHECK_SIZE 16U
#define LINE_MAX_  512U
/* What a session writes at the most, so that no line of it can find the file full. */
#define SESSION_ROOM (32U * LINE_MAX_)

struct journal {
        int dir_fd, fd;
        size_t used;
        char boot_id[40];
        journal_session *sessions;
        size_t n_sessions;
        bool is_open; /* the last one */
        bool ending;  /* it has ended, but the line that says so could not be written */
};

static const char *const mark_names[_JOURNAL_MARK_MAX] = {
        [JOURNAL_OPEN] = "open",           [JOURNAL_COMPLETED] = "completed",
        [JOURNAL_RAN_AGAIN] = "ran-again", [JOURNAL_HANDED] = "handed",
        [JOURNAL_DONE] = "done",           [JOURNAL_OWNER] = "owner",
        [JOURNAL_RUNNING] = "running",     [JOURNAL_DECLINED] = "declined",
        [JOURNAL_TAKEN] = "taken",
};

static const char *const cause_names[_JOURNAL_CAUSE_MAX] = {
        [JOURNAL_CAUSE_NONE] = "none",
        [JOURNAL_CAUSE_FAILURE] = "failure",
        [JOURNAL_CAUSE_GUEST] = "guest",
        [JOURNAL_CAUSE_CANCELLED] = "cancelled",
};

const char *journal_mark_name(journal_mark mark) {
        return (size_t)mark < _JOURNAL_MARK_MAX ? mark_names[mark] : "?";
}

bool journal_session_id_is_valid(const char *id) {
        size_t n = strlen(id);

        if (n == 0 || n > JOURNAL_SESSION_ID_MAX)
                return false;
        for (const char *c = id; *c; c++)
                if (!isalnum((unsigned char)*c) && !strchr("._:@+=-", *c))
                        return false;
        return true;
}

static int read_boot_id(char ret[40]) {
        _cleanup_(freep) char *text = NULL;
        size_t n;
        int r;

        r = file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, &n);
        if (r < 0)
                return r;
        text[strcspn(text, "\n")] = '\0';
        if (strlen(text) >= 40)
                return -EBADMSG;
        strcpy(ret, text);
        return 0;
}

static void line_check(const char *text, size_t n, char ret[CHECK_SIZE + 1]) {
        uint8_t digest[DIGEST_SIZE];

        digest_sha256(text, n, digest);
        hex_encode(digest, CHECK_SIZE / 2, ret);
}

static journal_session *last(const journal *j) {
        return j->n_sessions > 0 ? &j->sessions[j->n_sessions - 1] : NULL;
}

static int add_session(journal *j, const journal_session *session) {
        journal_session *more = realloc(j->sessions, (j->n_sessions + 1) * sizeof(*more));

        if (!more)
                return -ENOMEM;
        j->sessions = more;
        j->sessions[j->n_sessions++] = *session;
        return 0;
}

#define POSTCOPY_MODE "+postcopy"
static const char *const encryption_names[_TLS_KIND_MAX] = { "", "+psk", "+x509" };

static int parse_mode(const char *word, journal_session *ret) {
        const char *rest = strchrnul(word, '+');

        ret->direct = strncmp(word, "direct", (size_t)(rest - word)) == 0 && rest > word;
        ret->postcopy = strncmp(rest, POSTCOPY_MODE, strlen(POSTCOPY_MODE)) == 0;
        if (ret->postcopy)
                rest += strlen(POSTCOPY_MODE);
        for (tls_kind i = 0; i < _TLS_KIND_MAX; i++)
                if (strcmp(rest, encryption_names[i]) == 0) {
                        ret->encryption = i;
                        return 0;
                }
        return -EBADMSG;
}

static int apply_open(journal *j, char *text) {
        char *save = NULL, *word[5];
        journal_session session = { .mark = JOURNAL_OPEN };

        for (size_t i = 0; i < ELEMENTS(word); i++) {
                word[i] = strtok_r(i == 0 ? text : NULL, " ", &save);
                if (!word[i])
                        return -EBADMSG;
        }
        if (!journal_session_id_is_valid(word[0]))
                return -EBADMSG;
        strcpy(session.session_id, word[0]);
        session.source = strcmp(word[1], "source") == 0;
        session.this_boot = strcmp(word[3], j->boot_id) == 0;
        if (parse_mode(word[2], &session) < 0)
                return -EBADMSG;
        if (hex_decode(word[4], strlen(word[4]), session.secret, DIGEST_SIZE) < 0)
                return -EBADMSG;
        j->is_open = true;
        return add_session(j, &session);
}

static int apply_mark(journal *j, const char *name) {
        if (!j->is_open)
                return -EBADMSG;
        for (size_t i = 0; i < _JOURNAL_MARK_MAX; i++)
                if (strcmp(name, mark_names[i]) == 0) {
                        last(j)->mark = (journal_mark)i;
                        return 0;
                }
        return -EBADMSG;
}

/* Kept short: the line holds it whole. */
static void cause_set(journal_cause *cause, journal_cause_kind kind, int32_t code,
                      const char *reason) {
        *cause = (journal_cause){ .kind = kind, .code = code };
        (void)snprintf(cause->reason, sizeof(cause->reason), "%s", reason);
        for (char *c = cause->reason; *c; c++)
                if (*c < ' ' || *c > '~')
                        *c = '?';
}

static int apply_cause(journal *j, char *text) {
        char *save = NULL, *kind = strtok_r(text, " ", &save), *code = strtok_r(NULL, " ", &save);
        char *end = NULL;
        long value;

        if (!j->is_open || !kind || !code)
                return -EBADMSG;
        value = strtol(code, &end, 10);
        if (*end != '\0' || value < 0 || value > JOURNAL_CODE_MAX)
                return -EBADMSG;
        for (size_t i = JOURNAL_CAUSE_FAILURE; i < _JOURNAL_CAUSE_MAX; i++)
                if (strcmp(kind, cause_names[i]) == 0) {
                        cause_set(&last(j)->cause, (journal_cause_kind)i, (int32_t)value,
                                  save ? save : "");
                        return 0;
                }
        return -EBADMSG;
}

static int apply(journal *j, char *text) {
        if (strncmp(text, "open ", 5) == 0)
                return apply_open(j, text + 5);
        if (strncmp(text, "mark ", 5) == 0)
                return apply_mark(j, text + 5);
        if (strncmp(text, "cause ", 6) == 0)
                return apply_cause(j, text + 6);
        if (strcmp(text, "close") == 0 && j->is_open) {
                last(j)->closed = true;
                j->is_open = false;
                return 0;
        }
        return -EBADMSG;
}

/* A line that is whole: its end, else NULL. The newline becomes a NUL. */
static char *check_line(char *line, size_t n) {
        char check[CHECK_SIZE + 1], *end = memchr(line, '\n', n);

        if (!end || end - line < (ptrdiff_t)CHECK_SIZE + 2)
                return NULL;
        line_check(line + CHECK_SIZE + 1, (size_t)(end - line) - CHECK_SIZE - 1, check);
        if (memcmp(line, check, CHECK_SIZE) != 0 || line[CHECK_SIZE] != ' ')
                return NULL;
        *end = '\0';
        return end;
}

/* Only the last line can be torn: a whole one behind it says that the file was damaged. */
static bool whole_line_follows(char *text, size_t at, size_t n) {
        size_t limit = at + strnlen(text + at, n - at);

        for (char *next; (next = memchr(text + at, '\n', limit - at)) != NULL;) {
                at = (size_t)(next + 1 - text);
                if (check_line(text + at, limit - at))
                        return true;
        }
        return false;
}

static int replay(journal *j, char *text, size_t n) {
        size_t at = sizeof(FILE_HEAD) - 1;

        if (n < at || memcmp(text, FILE_HEAD, at) != 0)
                return -EBADMSG;
        while (at < n && text[at] != '\0') {
                char *line = text + at, *end = check_line(line, n - at);
                int r;

                if (!end && whole_line_follows(text, at, n))
                        return -EBADMSG;
                if (!end)
                        break; /* torn */
                r = apply(j, line + CHECK_SIZE + 1);
                if (r < 0)
                        return r;
                at = (size_t)(end + 1 - text);
        }
        j->used = at;
        return 0;
}

/* Zeros to the full size: no block is allocated later. */
static int make_file(int dir_fd, const char *content, size_t n) {
        _cleanup_(freep) char *text = calloc(1, FILE_SIZE);

        if (!text)
                return -ENOMEM;
        memcpy(text, content, n);
        return file_replace(dir_fd, FILE_NAME, text, FILE_SIZE, 0600, true);
}

static int open_file(journal *j) {
        j->fd = fd_close(j->fd);
        j->fd = openat(j->dir_fd, FILE_NAME, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        return j->fd < 0 ? -errno : 0;
}

int journal_open(int dir_fd, journal **ret, ferry_error *reterr) {
        _cleanup_(journal_freep) journal *j = malloc(sizeof(*j));
        _cleanup_(freep) char *text = NULL;
        size_t n = 0;
        int r;

        if (!j)
                return ferry_error_set_errno(reterr, -ENOMEM, "journal");
        *j = (journal){ .dir_fd = -EBADF, .fd = -EBADF };
        j->dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 3);
        if (j->dir_fd < 0)
                return ferry_error_set_errno(reterr, -errno, "journal");
        r = read_boot_id(j->boot_id);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "boot id");
        r = file_read(dir_fd, FILE_NAME, FILE_SIZE, &text, &n);
        if (r == -ENOENT) {
                r = make_file(dir_fd, FILE_HEAD, sizeof(FILE_HEAD) - 1);
                if (r < 0)
                        return ferry_error_set_errno(reterr, r, "create the journal");
                j->used = sizeof(FILE_HEAD) - 1;
        } else if (r < 0)
                return ferry_error_set_errno(reterr, r, "read the journal");
        else {
                r = replay(j, text, n);
                if (r < 0)
                        return ferry_error_set(reterr, FERRY_DATA_LOSS, r,
                                               "the journal is damaged: not starting a guest that "
                                               "may run elsewhere");
        }
        r = open_file(j);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "open the journal");
        *ret = TAKE_PTR(j);
        return 0;
}

journal *journal_free(journal *j) {
        if (!j)
                return NULL;
        fd_close(j->dir_fd);
        fd_close(j->fd);
        if (j->sessions)
                explicit_bzero(j->sessions, j->n_sessions * sizeof(*j->sessions));
        free(j->sessions);
        free(j);
        return NULL;
}

static int format_line(char *line, const char *text) {
        size_t n = strlen(text);

        if (n + CHECK_SIZE + 3 > LINE_MAX_)
                return -EMSGSIZE;
        line_check(text, n, line);
        return sprintf(line + CHECK_SIZE, " %s\n", text) + (int)CHECK_SIZE;
}

static int append(journal *j, const char *text, bool sync) {
        char line[LINE_MAX_];
        int n = format_line(line, text);
        ssize_t k;

        if (n < 0)
                return n;
        /* With the NUL: what is left of a torn line behind it must not be read as a line. */
        if (j->used + (size_t)n + 1 > FILE_SIZE)
                return -ENOSPC;
        k = pwrite(j->fd, line, (size_t)n + 1, (off_t)j->used);
        if (k != n + 1)
                return k < 0 ? -errno : -EIO;
        if (sync && fdatasync(j->fd) < 0)
                return -errno;
        j->used += (size_t)n;
        return 0;
}

static void format_open(const journal_session *s, const char *boot_id, char ret[LINE_MAX_]) {
        char secret[2 * DIGEST_SIZE + 1];

        hex_encode(s->secret, DIGEST_SIZE, secret);
        snprintf(ret, LINE_MAX_, "open %s %s %s%s%s %s %s", s->session_id,
                 s->source ? "source" : "destination", s->direct ? "direct" : "caller",
                 s->postcopy ? POSTCOPY_MODE : "", encryption_names[s->encryption],
                 s->this_boot ? boot_id : "-", secret);
        explicit_bzero(secret, sizeof(secret));
}

/* The newest tombstones in a new file. */
static int compact(journal *j) {
        _cleanup_(freep) char *text = calloc(1, FILE_SIZE);
        size_t n = sizeof(FILE_HEAD) - 1, keep = JOURNAL_TOMBSTONES_MAX / 2;
        size_t first = j->n_sessions > keep ? j->n_sessions - keep : 0;
        int r;

        if (!text)
                return -ENOMEM;
        memcpy(text, FILE_HEAD, n);
        for (size_t i = first; i < j->n_sessions; i++) {
                const journal_session *s = &j->sessions[i];
                char line[LINE_MAX_], mark[64];
                const char *const parts[] = { line, mark, "close" };

                format_open(s, j->boot_id, line);
                snprintf(mark, sizeof(mark), "mark %s", mark_names[s->mark]);
                for (size_t k = 0; k < ELEMENTS(parts); k++) {
                        r = format_line(text + n, parts[k]);
                        if (r < 0)
                                return r;
                        n += (size_t)r;
                }
        }
        r = make_file(j->dir_fd, text, n);
        if (r < 0)
                return r;
        r = open_file(j);
        if (r < 0)
                return r;
        memmove(j->sessions, j->sessions + first, (j->n_sessions - first) * sizeof(*j->sessions));
        j->n_sessions -= first;
        j->used = n;
        return 0;
}

int journal_begin(journal *j, const journal_opening *opening) {
        journal_session session = {
                .source = opening->source,
                .direct = opening->direct,
                .postcopy = opening->postcopy,
                .encryption = opening->encryption,
                .mark = JOURNAL_OPEN,
                .this_boot = true,
        };
        char text[LINE_MAX_];
        int r;

        if (j->ending)
                (void)journal_end(j);
        if (j->is_open)
                return -EBUSY;
        if (!journal_session_id_is_valid(opening->session_id))
                return -EINVAL;
        if (j->n_sessions >= JOURNAL_TOMBSTONES_MAX || FILE_SIZE - j->used < SESSION_ROOM) {
                r = compact(j);
                if (r < 0)
                        return r;
        }
        strcpy(session.session_id, opening->session_id);
        memcpy(session.secret, opening->secret, DIGEST_SIZE);
        r = add_session(j, &session);
        if (r < 0)
                return r;
        format_open(&session, j->boot_id, text);
        r = append(j, text, true);
        if (r < 0) {
                j->n_sessions--;
                return r;
        }
        j->is_open = true;
        return 0;
}

int journal_set(journal *j, journal_mark mark, bool sync) {
        char text[64];
        int r;

        if (!j->is_open || j->ending)
                return -ENODATA;
        /* each restart says again what the last one did: that must not fill the file */
        if (last(j)->mark == mark)
                return sync && fdatasync(j->fd) < 0 ? -errno : 0;
        snprintf(text, sizeof(text), "mark %s", mark_names[mark]);
        r = append(j, text, sync);
        if (r < 0)
                return r;
        last(j)->mark = mark;
        return 0;
}

int journal_set_cause(journal *j, journal_cause_kind kind, int32_t code, const char *reason) {
        journal_cause cause;
        char text[LINE_MAX_];
        int r;

        if (!j->is_open || j->ending)
                return -ENODATA;
        if (kind == JOURNAL_CAUSE_NONE || code < 0 || code > JOURNAL_CODE_MAX)
                return -EINVAL;
        if (last(j)->cause.kind == kind) /* as with marks */
                return 0;
        cause_set(&cause, kind, code, reason);
        snprintf(text, sizeof(text), "cause %s %d %s", cause_names[kind], (int)code, cause.reason);
        r = append(j, text, false);
        if (r < 0)
                return r;
        last(j)->cause = cause;
        return 0;
}

int journal_end(journal *j) {
        int r;

        if (!j->is_open)
                return 0;
        j->ending = true;
        r = append(j, "close", true);
        if (r < 0)
                return r;
        last(j)->closed = true;
        j->is_open = j->ending = false;
        return 0;
}

const journal_session *journal_current(const journal *j) {
        return j->is_open && !j->ending ? last(j) : NULL;
}

const journal_session *journal_find(const journal *j, const char *session_id) {
        for (size_t i = j->n_sessions; i > 0; i--)
                if (strcmp(j->sessions[i - 1].session_id, session_id) == 0)
                        return &j->sessions[i - 1];
        return NULL;
}

const journal_session *journal_sessions(const journal *j, size_t *ret_n) {
        *ret_n = j->n_sessions;
        return j->sessions;
}
