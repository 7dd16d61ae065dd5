/* SPDX-License-Identifier: MIT */
#pragma once

/* A bundle's config.json, written for a container on its host, made into one for the runtime in the
 * guest. Pure: text in, text out. What is kept, dropped and refused: docs/containers.md. */

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "base/error.h"

#define OCI_TEXT_MAX  (1U << 20)
#define OCI_FILES_MAX 32U
#define OCI_NOTES_MAX 64U

typedef struct oci_options {
        const char *root;          /* root.path in the guest */
        const char *cgroup;        /* linux.cgroupsPath */
        const char *files_folder;  /* in the guest: file N of `files` is at FOLDER/N */
        const char *shared_folder; /* there too: FOLDER/oci_shared_name() */
} oci_options;

typedef struct oci_config {
        char *text;                 /* for the guest, JSON */
        char *files[OCI_FILES_MAX]; /* paths here, whose contents the guest needs: bind mounts */
        size_t n_files;
        char *notes[OCI_NOTES_MAX]; /* what was dropped, for the log */
        size_t n_notes;
        char *network; /* path of its network namespace; "": one of its own; NULL: the host's */
        bool terminal;
} oci_config;

/* -EINVAL with what is wrong, or cannot be done in a VM; -EFBIG, -ENOMEM. */
int oci_translate(const char *text, size_t n, const oci_options *options, oci_config *ret,
                  ferry_error *reterr);
void oci_config_done(oci_config *config);

/* OCI's process object, for another program in a container: the same rules; caller frees. */
int oci_translate_process(const char *text, size_t n, char **ret, ferry_error *reterr);

/* The name of Kubernetes' emptyDir that a bind mount's source is, unique in its pod; else NULL.
 * Points into `source`. The containers of a pod share it, and the host has nothing of it. */
const char *oci_shared_name(const char *source);

/* As oci_config's `network`; NULL too when `text` is no configuration. Caller frees. */
char *oci_network(const char *text, size_t n);

/* The annotation, or NULL. Caller frees. */
char *oci_annotation(const char *text, size_t n, const char *key);
