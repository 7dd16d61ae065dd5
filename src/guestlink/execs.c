/* SPDX-License-Identifier: MIT */
#include "guestlink/execs.h"

#include <string.h>

#include <jansson.h>

#include "base/fd.h"
#include "guestlink/processes.h"

#define FILE_MAX (4U << 20)

exec_record *exec_record_free(exec_record *record) {
        if (!record)
                return NULL;
        for (size_t i = 0; i < ELEMENTS(record->stdio); i++)
                free(record->stdio[i]);
        free(record->id);
        free(record);
        return NULL;
}

static int read_one(const json_t *object, exec_record **ret) {
        _cleanup_(exec_record_freep) exec_record *record = calloc(1, sizeof(*record));
        const json_t *stdio = json_object_get(object, "stdio");
        const char *id = json_string_value(json_object_get(object, "id"));
        json_int_t stream = json_integer_value(json_object_get(object, "stream"));
        json_int_t oom_kills = json_integer_value(json_object_get(object, "oom_kills"));

        if (!record)
                return -ENOMEM;
        if (!id || strlen(id) > GUEST_PROCESS_ID_MAX || stream <= 0 || stream >= UINT32_MAX ||
            oom_kills < 0 || json_array_size(stdio) != ELEMENTS(record->stdio))
                return -EINVAL;
        record->stream = (uint32_t)stream;
        record->terminal = json_is_true(json_object_get(object, "terminal"));
        record->detached = json_is_true(json_object_get(object, "detached"));
        record->oom_kills = (uint64_t)oom_kills;
        record->id = strdup(id);
        for (size_t i = 0; i < ELEMENTS(record->stdio); i++) {
                const char *path = json_string_value(json_array_get(stdio, i));

                record->stdio[i] = path ? strdup(path) : NULL;
                if (path && !record->stdio[i])
                        return -ENOMEM;
        }
        if (!record->id)
                return -ENOMEM;
        *ret = TAKE_PTR(record);
        return 0;
}

int exec_records_read(int dir_fd, const char *name, const char *generation, exec_records *ret) {
        _cleanup_(freep) char *text = NULL;
        const char *written;
        json_t *root, *list, *object;
        size_t n, i;
        int r;

        *ret = (exec_records){ .next_stream = 2 };
        r = file_read(dir_fd, name, FILE_MAX, &text, &n);
        if (r < 0)
                return r == -ENOENT || r == -EFBIG ? 0 : r;
        root = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
        written = json_string_value(json_object_get(root, "generation"));
        if (written && strcmp(written, generation) == 0) {
                json_int_t next = json_integer_value(json_object_get(root, "next_stream"));

                if (next > 2 && next < UINT32_MAX / 2)
                        ret->next_stream = (uint32_t)next;
                list = json_object_get(root, "processes");
                if (json_array_size(list) <= GUEST_PROCESSES_MAX)
                        json_array_foreach(list, i, object) {
                                exec_record *record = NULL;

                                if (read_one(object, &record) < 0)
                                        continue;
                                record->next = ret->first;
                                ret->first = record;
                        }
        }
        json_decref(root);
        return 0;
}

int exec_records_write(int dir_fd, const char *name, const char *generation,
                       const exec_records *records) {
        json_t *list = json_array(), *root;
        char *text;
        int r = 0;

        for (const exec_record *e = records->first; list && r == 0 && e; e = e->next)
                r = json_array_append_new(
                        list,
                        json_pack("{s:s, s:I, s:b, s:b, s:I, s:[s?, s?, s?]}", "id", e->id,
                                  "stream", (json_int_t)e->stream, "terminal", e->terminal,
                                  "detached", e->detached, "oom_kills", (json_int_t)e->oom_kills,
                                  "stdio", e->stdio[0], e->stdio[1], e->stdio[2]));
        root = r == 0 ? json_pack("{s:s, s:I, s:O}", "generation", generation, "next_stream",
                                  (json_int_t)records->next_stream, "processes", list)
                      : NULL;
        text = root ? json_dumps(root, JSON_COMPACT) : NULL;
        r = text ? file_replace(dir_fd, name, text, strlen(text), 0600, false) : -ENOMEM;
        free(text);
        json_decref(root);
        json_decref(list);
        return r;
}
