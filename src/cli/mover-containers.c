/* SPDX-License-Identifier: MIT */
#include "cli/mover-containers.h"

#include <string.h>

#include "base/clock.h"
#include "base/digest.h"
#include "cli/ctr.h"
#include "cli/end.h"
#include "services/annotations.h"
#include "state.pb-c.h"

#define OTHERS_USEC (500 * USEC_PER_MSEC)
#define CRI_LABEL   "io.cri-containerd.kind"
#define OTHERS_STEP (20 * USEC_PER_MSEC)

static size_t n_containers(const mover *m) {
        return m->containers ? m->containers->n_containers : 0;
}

static ctr source_of(const mover *m) {
        const char *address = m->containers->address;

        return (ctr){ .address = address[0] ? address : m->from->containerd,
                      .namespace = m->containers->namespace_ };
}

static ctr destination_of(const mover *m) {
        return (ctr){ .address = m->to->containerd, .namespace = m->containers->namespace_ };
}

void mover_take_containers(mover *m, shim_status *status) {
        if (!m->containers && status->containerd && status->containerd->n_containers > 0)
                m->containers = TAKE_PTR(status->containerd);
}

static bool has_claimed(const shim_status *status, const char *id) {
        const Ferry__Shim__V1__Containerd *c = status ? status->containerd : NULL;

        for (size_t i = 0; c && i < c->n_containers; i++)
                if (strcmp(c->containers[i]->id, id) == 0)
                        return !c->containers[i]->unclaimed;
        return false;
}

/* Those that were made at the destination come last. */
void mover_learn_containers(mover *m, shim_status *source, shim_status *destination) {
        Ferry__Shim__V1__Container **all;

        if (source)
                mover_take_containers(m, source);
        if (!m->containers)
                return;
        all = m->containers->containers;
        for (size_t i = m->containers->n_containers; i-- > 0;)
                if (has_claimed(destination, all[i]->id)) {
                        size_t to = m->containers->n_containers - ++m->n_created;
                        Ferry__Shim__V1__Container *found = all[i];

                        all[i] = all[to];
                        all[to] = found;
                }
}

/* ---- images ---- */

static const Ferry__State__V1__File *find_file(const Ferry__State__V1__Vm *vm, json_int_t scsi_id) {
        char role[32];

        snprintf(role, sizeof(role), "scsi%lld", (long long)scsi_id);
        for (size_t i = 0; i < vm->n_files; i++)
                if (strcmp(vm->files[i]->role, role) == 0 &&
                    vm->files[i]->sha256.len == DIGEST_SIZE)
                        return vm->files[i];
        return NULL;
}

static int bring_image(mover *m, const Ferry__State__V1__Vm *vm, const json_t *disk,
                       ferry_error *reterr) {
        const char *path = json_string_value(json_object_get(disk, "path"));
        const Ferry__State__V1__File *file;
        char *digest;
        int r;

        if (!path || !json_is_string(json_object_get(disk, "serial")) ||
            m->n_images == ELEMENTS(m->images))
                return 0;
        file = find_file(vm, json_integer_value(json_object_get(disk, "scsi_id")));
        digest = file ? malloc(2 * DIGEST_SIZE + 1) : NULL;
        if (!digest)
                return 0;
        hex_encode(file->sha256.data, DIGEST_SIZE, digest);
        r = m->to->operations->take_image(m->to, m->name, path, digest, reterr);
        if (r < 0)
                free(digest);
        else
                m->images[m->n_images++] = digest;
        return r;
}

int mover_bring_images(mover *m, const Google__Protobuf__Any *any, ferry_error *reterr) {
        Ferry__State__V1__SandboxState *state;
        json_t *config = NULL, *disk;
        size_t i;
        int r = 0;

        if (n_containers(m) == 0)
                return 0;
        state = ferry__state__v1__sandbox_state__unpack(NULL, any->value.len, any->value.data);
        if (state && state->vm)
                config = json_loadb((const char *)state->vm->config.data, state->vm->config.len, 0,
                                    NULL);
        json_array_foreach(json_object_get(config, "disks"), i, disk) {
                r = bring_image(m, state->vm, disk, reterr);
                if (r < 0)
                        break;
        }
        json_decref(config);
        if (state)
                ferry__state__v1__sandbox_state__free_unpacked(state, NULL);
        return r;
}

void mover_drop_images(mover *m) {
        while (m->n_images > 0) {
                char *digest = m->images[--m->n_images];

                m->to->operations->drop_image(m->to, m->name, digest);
                free(digest);
        }
}

/* ---- containers ---- */

/* As at the source; its root and its network are the guest's by now. */
static int make_spec(const mover *m, const char *id, json_t *spec) {
        json_t *annotations = json_object_get(spec, "annotations");
        int r = 0;

        if (!json_is_object(annotations)) {
                annotations = json_object();
                r = json_object_set_new(spec, "annotations", annotations);
        }
        if (r == 0)
                r = json_object_set_new(annotations, ANNOTATION_SANDBOX, json_string(m->name));
        if (r == 0)
                r = json_object_set_new(annotations, ANNOTATION_SOURCE, json_string(id));
        if (r == 0 && m->keeps_address)
                r = json_object_set_new(annotations, ANNOTATION_KEEP_ADDRESS, json_string("true"));
        return r < 0 ? -ENOMEM : 0;
}

/* The entry of its network namespace; NULL: it has the host's. */
static json_t *find_network(json_t *spec) {
        json_t *all = json_object_get(json_object_get(spec, "linux"), "namespaces"), *item;
        size_t i;

        json_array_foreach(all, i, item) {
                const char *type = json_string_value(json_object_get(item, "type"));

                if (type && strcmp(type, "network") == 0)
                        return item;
        }
        return NULL;
}

/* CRI keeps a list of its own of the containers that it has made. */
static int check_maker(const mover *m, const char *id, const json_t *info, ferry_error *reterr) {
        if (!json_object_get(json_object_get(info, "Labels"), CRI_LABEL))
                return 0;
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                               "container %s of %s is CRI's, which alone can make it at the other "
                               "host: with --await-pod",
                               id, m->name);
}

/* Of what is asked for about the containers' network. */
static int check_network(const mover *m, ferry_error *reterr) {
        const char *option = m->network ? "--network" : m->keeps_address ? "--keep-address" : NULL;

        if (option && n_containers(m) == 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "%s has no containers of a containerd's, which %s is about",
                                       m->name, option);
        return 0;
}

int mover_check_containers(mover *m, ferry_error *reterr) {
        if (m->has_pod)
                return 0;
        if (n_containers(m) == 0)
                return check_network(m, reterr);
        if (!m->to->containerd)
                return ferry_error_set(
                        reterr, FERRY_FAILED_PRECONDITION, -EOPNOTSUPP,
                        "%s has containers of a containerd's, and host %s is said to have none: "
                        "`ferry --root %s host set --containerd SOCKET ...`",
                        m->name, m->to->name, m->to->root);
        if (n_containers(m) > ELEMENTS(m->infos))
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -E2BIG,
                                       "%zu containers are more than can be moved",
                                       n_containers(m));
        for (size_t i = 0; i < n_containers(m) && !m->awaits; i++) {
                const char *id = m->containers->containers[i]->id;
                ctr from = source_of(m);
                int r;

                r = ctr_get_container(&from, id, &m->infos[i], reterr);
                if (r == 0)
                        r = check_maker(m, id, m->infos[i], reterr);
                if (r == 0 && m->keeps_address &&
                    !find_network(json_object_get(m->infos[i], "Spec")))
                        r = ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                            "container %s has the host's network: there is no "
                                            "address to keep",
                                            id);
                if (r < 0)
                        return r;
        }
        return 0;
}

void mover_forget_containers(mover *m) {
        for (size_t i = 0; i < ELEMENTS(m->infos); i++)
                json_decref(m->infos[i]);
        if (m->containers)
                protobuf_c_message_free_unpacked(&m->containers->base, NULL);
        m->containers = NULL;
}

static int set_network(const mover *m, json_t *spec) {
        json_t *network = find_network(spec);

        if (!network || !m->network)
                return 0;
        if (strcmp(m->network, "none") != 0)
                return json_object_set_new(network, "path", json_string(m->network));
        (void)json_object_del(network, "path");
        return 0;
}

static int create_container(mover *m, size_t i, ferry_error *reterr) {
        const Ferry__Shim__V1__Container *container = m->containers->containers[i];
        json_t *spec = json_object_get(m->infos[i], "Spec");
        ctr to = destination_of(m);
        int r;

        r = make_spec(m, container->id, spec);
        if (r == 0)
                r = set_network(m, spec);
        if (r < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "container %s", container->id);
        r = ctr_create_container(&to, container->id, spec, json_object_get(m->infos[i], "Labels"),
                                 reterr);
        if (r < 0)
                return r;
        m->n_created++;
        return ctr_start_task(&to, container->id, container->terminal, reterr);
}

/* The shim lists the newest first. A pod's own container is the oldest: it has to come before the
 * others, and to go after them. */
int mover_create_containers(mover *m, ferry_error *reterr) {
        for (size_t i = n_containers(m); i-- > 0;) {
                int r = create_container(m, i, reterr);

                if (r < 0)
                        return ferry_error_prefix(reterr, r, "container %s at host %s",
                                                  m->containers->containers[i]->id, m->to->name);
        }
        return 0;
}

/* Who waits for a task, as `ctr run` does, removes it himself when it has ended, and fails when
 * somebody else is faster. */
static void leave_them_time(mover *m) {
        uint64_t deadline = now_usec() + OTHERS_USEC;
        size_t left = 1;

        while (left > 0 && now_usec() < deadline && rpc_is_open(m->source)) {
                shim_status *status;

                if (call_status(m->source, &status, NULL) < 0)
                        return;
                left = status->containerd ? status->containerd->n_containers : 0;
                protobuf_c_message_free_unpacked(&status->base, NULL);
                if (left > 0 && end_pause(m->group, OTHERS_STEP, NULL) < 0)
                        return;
        }
}

int mover_remove_containers(mover *m, bool source, ferry_error *reterr) {
        size_t n = source ? n_containers(m) : m->n_created;
        int r = 0;

        if (source)
                leave_them_time(m);

        for (size_t i = n_containers(m) - n; i < n_containers(m); i++) {
                ctr c = source ? source_of(m) : destination_of(m);
                int e;

                if (!c.address)
                        continue;
                e = ctr_remove_container(&c, m->containers->containers[i]->id,
                                         r < 0 ? NULL : reterr);
                r = r < 0 ? r : e;
        }
        return r;
}
