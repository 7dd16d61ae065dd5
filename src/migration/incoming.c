/* SPDX-License-Identifier: MIT */
#include "migration/incoming.h"

#include <limits.h>
#include <string.h>

#include "vm/argv.h"

struct incoming_check {
        sd_event *event;
        const migration_state *state;
        char *qemu, *probe_cache, *ability_cache;
        vm_user user;
        identify *files;
        vm_probe *kvm;
        vm_ability *ability;
        sd_event_source *defer;
        differences reasons;
        incoming_done done;
        void *userdata;
};

incoming_check *incoming_check_free(incoming_check *c) {
        if (!c)
                return NULL;
        identify_free(c->files);
        vm_probe_free(c->kvm);
        vm_ability_free(c->ability);
        sd_event_source_disable_unref(c->defer);
        differences_done(&c->reasons);
        free(c->qemu);
        free(c->probe_cache);
        free(c->ability_cache);
        sd_event_unref(c->event);
        free(c);
        return NULL;
}

/* ---- disks ---- */

static bool path_is_below(const char *path, const char *root) {
        _cleanup_(freep) char *real = realpath(path, NULL), *real_root = realpath(root, NULL);
        size_t n;

        if (!real || !real_root)
                return false;
        n = strlen(real_root);
        return strncmp(real, real_root, n) == 0 && real[n] == '/';
}

static void check_disks(incoming_check *c, const char *disk_root) {
        const vm_config *config = c->state->config;

        for (size_t i = 0; i < config->n_disks; i++) {
                const vm_config_disk *disk = &config->disks[i];
                char name[VM_CONFIG_DISK_NAME_SIZE];

                vm_config_disk_name(config, i, name);
                if (!disk->readonly && (!disk_root || !path_is_below(disk->path, disk_root)))
                        differ(&c->reasons,
                               "%s %s is writable and not below this host's disk root (%s)", name,
                               disk->path, disk_root ? disk_root : "none");
        }
}

/* ---- QEMU ---- */

static vm_fact_list view(char **strv) {
        size_t n = 0;

        while (strv[n])
                n++;
        return (vm_fact_list){ (const char *const *)strv, n };
}

/* What its QEMU gives, with what this ferry would tell it to give. */
static void compare(incoming_check *c, const vm_facts *ability) {
        const Ferry__State__V1__SandboxState *m = c->state->message;
        _cleanup_(strv_freep) char **devices = NULL, **ram = NULL;
        Ferry__State__V1__Compatibility *given;
        vm_facts here = *ability;

        if (vm_argv_describe(c->state->config, &devices, &ram) < 0) {
                differ(&c->reasons, "out of memory");
                return;
        }
        here.memory_bytes = vm_config_memory_bytes(c->state->config);
        here.vcpus = c->state->config->vcpus;
        here.devices = view(devices);
        here.ram = view(ram);
        compatibility_compare(m->compatibility, "at the source", &here, &c->reasons);
        if (m->options && m->options->compatibility_data &&
            compatibility_unpack(m->options->compatibility_data->data.data,
                                 m->options->compatibility_data->data.len, &given) == 0) {
                compatibility_compare(given, "in compatibility_data", &here, &c->reasons);
                ferry__state__v1__compatibility__free_unpacked(given, NULL);
        }
}

static void explain_no_start(incoming_check *c, const vm_ability_result *result) {
        const vm_config *config = c->state->config;
        const char *version = result->qemu_version[0] ? result->qemu_version : "of this host";
        size_t before = c->reasons.n;

        if (result->qemu_version[0] && !result->knows_machine)
                differ(&c->reasons,
                       "the machine type is %s at the source, which QEMU %s does not have",
                       config->machine, version);
        if (result->qemu_version[0] && !result->knows_cpu)
                differ(&c->reasons,
                       "the CPU model is %s at the source, which QEMU %s does not have",
                       config->cpu, version);
        if (c->reasons.n == before)
                differ(&c->reasons, "QEMU %s does not start such a VM: %s", version,
                       result->reason);
}

static void on_ability(const vm_ability_result *result, void *userdata) {
        incoming_check *c = userdata;

        if (result->facts)
                compare(c, result->facts);
        else
                explain_no_start(c, result);
        c->done(&c->reasons, c->userdata);
}

static int on_defer(sd_event_source *source, void *userdata) {
        incoming_check *c = userdata;

        c->done(&c->reasons, c->userdata);
        return 0;
}

/* Nothing more can be asked. */
static int done_later(incoming_check *c, ferry_error *reterr) {
        int r = sd_event_add_defer(c->event, &c->defer, on_defer, c);

        return r < 0 ? ferry_error_set_errno(reterr, r, "check") : 0;
}

static int ask_qemu(incoming_check *c, ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const vm_config *config = c->state->config;
        int r;

        r = vm_ability_start(
                c->event,
                &(vm_ability_options){ .qemu = c->qemu,
                                       .machine = config->machine,
                                       .cpu = config->cpu,
                                       .accelerator = vm_accelerator_to_string(config->accelerator),
                                       .cache_path = c->ability_cache,
                                       .user = c->user },
                on_ability, c, &c->ability, &error);
        if (r == 0)
                return 0;
        differ(&c->reasons, "%s", ferry_error_message(&error));
        return done_later(c, reterr);
}

static void on_kvm(const vm_probe_result *result, void *userdata) {
        incoming_check *c = userdata;
        int r = 0;

        if (result->works)
                r = ask_qemu(c, NULL);
        else
                differ(&c->reasons, "the accelerator is kvm at the source, and not here: %s",
                       result->reason);
        if (!result->works || r < 0)
                c->done(&c->reasons, c->userdata);
}

static int start_kvm(incoming_check *c, ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const vm_config *config = c->state->config;
        int r;

        r = vm_probe_start(c->event,
                           &(vm_probe_options){ .qemu = c->qemu,
                                                .machine = config->machine,
                                                .cpu = config->cpu,
                                                .cache_path = c->probe_cache,
                                                .user = c->user },
                           on_kvm, c, &c->kvm, &error);
        if (r == 0)
                return 0;
        differ(&c->reasons, "%s", ferry_error_message(&error));
        return done_later(c, reterr);
}

static int copy_places(incoming_check *c, const incoming_host *host) {
        c->qemu = strdup(host->qemu ? host->qemu : VM_CONFIG_QEMU_DEFAULT);
        if (!c->qemu)
                return -ENOMEM;
        if (!host->probe_cache)
                return 0;
        c->probe_cache = strdup(host->probe_cache);
        if (!c->probe_cache)
                return -ENOMEM;
        if (asprintf(&c->ability_cache, "%s.facts", host->probe_cache) < 0) {
                c->ability_cache = NULL;
                return -ENOMEM;
        }
        return 0;
}

static void on_files(const vm_files *files, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        incoming_check *c = userdata;
        const vm_config *config = c->state->config;
        int r;

        migration_state_check_files(c->state, files, &c->reasons);
        if (!config->cpu || config->accelerator == VM_ACCELERATOR_AUTO) {
                differ(&c->reasons, "the source did not say which CPU model and accelerator");
                c->done(&c->reasons, c->userdata);
                return;
        }
        r = config->accelerator == VM_ACCELERATOR_KVM ? start_kvm(c, &error) : ask_qemu(c, &error);
        if (r < 0) {
                differ(&c->reasons, "%s", ferry_error_message(&error));
                c->done(&c->reasons, c->userdata);
        }
}

int incoming_check_start(sd_event *event, const migration_state *state, const incoming_host *host,
                         incoming_done done, void *userdata, incoming_check **ret,
                         ferry_error *reterr) {
        _cleanup_(incoming_check_freep) incoming_check *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "check");
        *c = (incoming_check){ .event = sd_event_ref(event),
                               .state = state,
                               .user = host->user,
                               .done = done,
                               .userdata = userdata };
        r = copy_places(c, host);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "check");
        check_disks(c, host->disk_root);
        r = identify_start(event, state->config, on_files, c, &c->files);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "look at the files");
        *ret = TAKE_PTR(c);
        return 0;
}

int incoming_report(const differences *reasons, ferry_error *reterr) {
        return differences_report(reasons, "this host cannot take the sandbox", reterr);
}
