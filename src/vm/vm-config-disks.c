/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <string.h>

#include "vm/vm-config-internal.h"

void vm_config_disk_done(vm_config_disk *disk) {
        free(disk->path);
        free(disk->serial);
        *disk = (vm_config_disk){ .path = NULL };
}

void vm_config_disk_name(const vm_config *config, size_t index,
                         char ret[VM_CONFIG_DISK_NAME_SIZE]) {
        const vm_config_disk *disk = &config->disks[index];

        if (disk->serial)
                snprintf(ret, VM_CONFIG_DISK_NAME_SIZE, "scsi%u", disk->scsi_id);
        else
                snprintf(ret, VM_CONFIG_DISK_NAME_SIZE, "disk%zu", index);
}

/* It becomes a part of a QEMU option, and of what the guest reads. */
static bool is_serial(const char *text) {
        if (!isalnum((unsigned char)text[0]))
                return false;
        for (const char *c = text; *c; c++)
                if (!isalnum((unsigned char)*c) && !strchr("-._", *c))
                        return false;
        return true;
}

static int refuse_field(ferry_error *reterr, const char *where, const char *field,
                        const char *what) {
        char text[64];

        snprintf(text, sizeof(text), "%s.%s", where, field);
        return config_refuse(reterr, text, what);
}

static int check_form(const vm_config *config, const vm_config_disk *disk, const char *where,
                      ferry_error *reterr) {
        char field[64];
        int r;

        if (!disk->path)
                return refuse_field(reterr, where, "path", "is missing");
        snprintf(field, sizeof(field), "%s.path", where);
        r = config_check_path(disk->path, field, reterr);
        if (r < 0 || !disk->serial)
                return r;
        if (strlen(disk->serial) > VM_CONFIG_SERIAL_MAX || !is_serial(disk->serial))
                return refuse_field(reterr, where, "serial",
                                    "must be 1 to 20 letters, digits, '-', '.' or '_', and begin "
                                    "with a letter or a digit");
        if (disk->scsi_id >= VM_CONFIG_SCSI_DISKS_MAX)
                return refuse_field(reterr, where, "scsi_id", "must be a number from 0 to 31");
        if (!config->scsi)
                return refuse_field(reterr, where, "serial", "needs \"scsi\": true");
        return 0;
}

/* With the first `n` of the configuration; NULL: none. Readers may share an image. */
static const char *find_conflict(const vm_config *config, size_t n, const vm_config_disk *disk) {
        for (size_t i = 0; i < n; i++) {
                const vm_config_disk *other = &config->disks[i];
                bool both_scsi = other->serial && disk->serial;

                if (strcmp(other->path, disk->path) == 0 &&
                    !(both_scsi && other->readonly && disk->readonly))
                        return "the same path twice";
                if (other->serial && !disk->serial)
                        return "those with a serial come last";
                if (both_scsi && strcmp(other->serial, disk->serial) == 0)
                        return "the same serial twice";
                if (both_scsi && other->scsi_id == disk->scsi_id)
                        return "the same scsi_id twice";
        }
        return NULL;
}

static int read_disk(const json_t *json, size_t index, vm_config *config, ferry_error *reterr) {
        static const char *const fields[] = { "path", "readonly", "scsi_id", "serial" };
        vm_config_disk *disk = &config->disks[index];
        const json_t *readonly, *scsi_id;
        const char *conflict;
        char where[32], field[48];
        int r;

        snprintf(where, sizeof(where), "disks[%zu]", index);
        if (!json_is_object(json))
                return config_refuse(reterr, where, "must be an object");
        snprintf(field, sizeof(field), "%s.", where);
        r = config_check_fields(json, field, fields, ELEMENTS(fields), reterr);
        if (r < 0)
                return r;
        snprintf(field, sizeof(field), "%s.path", where);
        r = config_read_string(json, "path", field, VM_CONFIG_PATH_MAX, &disk->path, reterr);
        if (r < 0)
                return r;
        readonly = json_object_get(json, "readonly");
        if (readonly && !json_is_boolean(readonly))
                return refuse_field(reterr, where, "readonly", "must be true or false");
        disk->readonly = json_is_true(readonly);
        snprintf(field, sizeof(field), "%s.serial", where);
        r = config_read_string(json, "serial", field, VM_CONFIG_SERIAL_MAX, &disk->serial, reterr);
        if (r < 0)
                return r;
        scsi_id = json_object_get(json, "scsi_id");
        if (!scsi_id != !disk->serial)
                return refuse_field(reterr, where, "scsi_id",
                                    "goes with a serial, and it with one");
        snprintf(field, sizeof(field), "%s.scsi_id", where);
        r = config_read_uint(json, "scsi_id", field, 0, VM_CONFIG_SCSI_DISKS_MAX - 1,
                             &disk->scsi_id, reterr);
        if (r < 0)
                return r;
        r = check_form(config, disk, where, reterr);
        if (r < 0)
                return r;
        conflict = find_conflict(config, index, disk);
        return conflict ? config_refuse(reterr, "disks", conflict) : 0;
}

int config_read_disks(const json_t *root, vm_config *config, ferry_error *reterr) {
        const json_t *disks = json_object_get(root, "disks");
        size_t n = json_array_size(disks);
        int r;

        if (!disks)
                return 0;
        if (!json_is_array(disks))
                return config_refuse(reterr, "disks", "must be an array");
        if (n > VM_CONFIG_DISKS_MAX)
                return config_refuse(reterr, "disks", "too many disks");
        if (n == 0)
                return 0;
        config->disks = calloc(n, sizeof(*config->disks));
        if (!config->disks)
                return config_no_memory(reterr);
        config->n_disks = n;
        for (size_t i = 0; i < n; i++) {
                r = read_disk(json_array_get(disks, i), i, config, reterr);
                if (r < 0)
                        return r;
                if (i >= VM_CONFIG_VIRTIO_DISKS_MAX && !config->disks[i].serial)
                        return config_refuse(reterr, "disks",
                                             "too many disks without a serial (at most 8)");
        }
        return 0;
}

static json_t *format_disk(const vm_config_disk *disk) {
        json_t *json = json_pack("{s:s, s:b}", "path", disk->path, "readonly", disk->readonly);

        if (json && disk->serial &&
            (json_object_set_new(json, "serial", json_string(disk->serial)) < 0 ||
             json_object_set_new(json, "scsi_id", json_integer(disk->scsi_id)) < 0)) {
                json_decref(json);
                return NULL;
        }
        return json;
}

json_t *config_format_disks(const vm_config *config) {
        json_t *disks = json_array();

        for (size_t i = 0; disks && i < config->n_disks; i++)
                if (json_array_append_new(disks, format_disk(&config->disks[i])) < 0) {
                        json_decref(disks);
                        return NULL;
                }
        return disks;
}

int vm_config_add_disk(vm_config *config, const vm_config_disk *disk, ferry_error *reterr) {
        vm_config_disk copy = { .readonly = disk->readonly, .scsi_id = disk->scsi_id };
        const char *conflict;
        vm_config_disk *disks;
        int r;

        if (!disk->serial)
                return config_refuse(reterr, "disk.serial", "is missing");
        r = check_form(config, disk, "disk", reterr);
        if (r < 0)
                return r;
        conflict = find_conflict(config, config->n_disks, disk);
        if (conflict)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST, "disk %s: %s",
                                       disk->serial, conflict);
        copy.path = strdup(disk->path);
        copy.serial = strdup(disk->serial);
        disks = reallocarray(config->disks, config->n_disks + 1, sizeof(*disks));
        if (disks)
                config->disks = disks;
        if (!disks || !copy.path || !copy.serial) {
                vm_config_disk_done(&copy);
                return config_no_memory(reterr);
        }
        config->disks[config->n_disks++] = copy;
        return 0;
}

ssize_t vm_config_find_disk(const vm_config *config, const char *serial) {
        for (size_t i = 0; i < config->n_disks; i++)
                if (config->disks[i].serial && strcmp(config->disks[i].serial, serial) == 0)
                        return (ssize_t)i;
        return -1;
}

uint32_t vm_config_free_scsi_id(const vm_config *config) {
        uint32_t taken = 0, id = 0; /* a bit each */

        for (size_t i = 0; i < config->n_disks; i++)
                if (config->disks[i].serial)
                        taken |= UINT32_C(1) << config->disks[i].scsi_id;
        while (id < VM_CONFIG_SCSI_DISKS_MAX && (taken >> id & 1))
                id++;
        return id;
}

void vm_config_remove_disk(vm_config *config, size_t index) {
        vm_config_disk_done(&config->disks[index]);
        config->n_disks--;
        memmove(&config->disks[index], &config->disks[index + 1],
                (config->n_disks - index) * sizeof(config->disks[0]));
}
