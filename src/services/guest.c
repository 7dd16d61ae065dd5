/* SPDX-License-Identifier: MIT */
#include "services/guest.h"

#include <string.h>

#include "base/log.h"
#include "guestlink/landing.h"
#include "guestlink/renew.h"
#include "migration/session.h"

#define GENERATION_SIZE 32

struct guest_access {
        sandbox *sb;
        sd_event *event;
        sd_event_source *look;
        bool carried;              /* it stands, and is on its way to another host */
        bool told;                 /* that it has moved here */
        bool begun;                /* before that, no VM does not mean that its programs are gone */
        guest_processes *programs; /* NULL: none were started, and none are left from before */
        pid_t vm_pid;              /* whose they are */
        sandbox_guest containers;  /* none: zero */
        void *containers_userdata;
};

static bool has_guest(const guest_access *s) {
        sandbox_vm_state state = sandbox_get_vm_state(s->sb);
        ferry_vm *v = sandbox_vm(s->sb);

        return v && (state == SANDBOX_VM_RUNNING || state == SANDBOX_VM_PAUSED) &&
               vm_get_config(v)->agent;
}

/* Another VM has none of the programs of the one before. */
static void get_generation(const guest_access *s, char ret[GENERATION_SIZE]) {
        snprintf(ret, GENERATION_SIZE, "%d", (int)vm_get_pid(sandbox_vm(s->sb)));
}

static int open_programs(guest_access *s, ferry_error *reterr) {
        char generation[GENERATION_SIZE];

        if (s->programs)
                return 0;
        get_generation(s, generation);
        s->vm_pid = vm_get_pid(sandbox_vm(s->sb));
        return guest_processes_new(s->event, sandbox_state_dir(s->sb), generation, &s->programs,
                                   reterr);
}

static bool has_programs_from_before(const guest_access *s) {
        return !s->programs && guest_processes_are_left(sandbox_dir_fd(s->sb));
}

/* The guest runs here: for the first time since it has moved, or again after all. */
static void greet_guest(guest_access *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        bool moved = !s->told && vm_get_mode(sandbox_vm(s->sb)) == VM_MODE_INCOMING;
        bool stayed = s->carried;

        s->told = true;
        s->carried = false;
        if ((moved || has_programs_from_before(s)) && open_programs(s, &error) < 0)
                log_warning("%s", ferry_error_message(&error));
        if (stayed && s->programs)
                guest_processes_stay(s->programs);
        if ((moved || stayed) && s->programs)
                guest_moved(s->programs, moved);
}

/* A guest is to come, and perhaps programs with it. */
static void prepare_landing(const guest_access *s) {
        int r = guest_landing_prepare(sandbox_dir_fd(s->sb));

        if (r < 0) /* tried again, when they come */
                log_warning(GUEST_LANDING_FILE ": %s", strerror(-r));
}

static bool is_theirs(const guest_access *s) {
        const ferry_vm *v = sandbox_vm(s->sb);

        return v && vm_get_pid(v) == s->vm_pid;
}

/* The VM has come or gone. */
static void look(guest_access *s) {
        sandbox_vm_state state = sandbox_get_vm_state(s->sb);

        if (!s->begun)
                return;
        if (state == SANDBOX_VM_NONE || state == SANDBOX_VM_STOPPED) {
                s->programs = guest_processes_free(s->programs);
                s->carried = s->told = false;
                guest_processes_forget(sandbox_dir_fd(s->sb));
        } else if (state == SANDBOX_VM_STARTING && s->programs && !is_theirs(s)) {
                /* of a copy of a template that was no good */
                s->programs = guest_processes_free(s->programs);
        } else if (state == SANDBOX_VM_INCOMING)
                prepare_landing(s);
        else if (state == SANDBOX_VM_RUNNING && has_guest(s))
                greet_guest(s);
}

static int on_look(sd_event_source *source, void *userdata) {
        look(userdata);
        return 0;
}

void guest_access_begin(guest_access *s) {
        s->begun = true;
        look(s);
}

static void on_change(void *userdata) {
        guest_access *s = userdata;

        (void)sd_event_source_set_enabled(s->look, SD_EVENT_ONESHOT);
}

static int check_export(void *userdata, ferry_error *reterr) {
        const guest_access *s = userdata;

        return s->containers.check_export
                       ? s->containers.check_export(s->containers_userdata, reterr)
                       : 0;
}

static int describe(void *userdata, uint8_t **ret, size_t *ret_n, ferry_error *reterr) {
        const guest_access *s = userdata;

        return s->containers.describe
                       ? s->containers.describe(s->containers_userdata, ret, ret_n, reterr)
                       : 0;
}

static int take(void *userdata, const vm_config *config, const uint8_t *data, size_t n,
                ferry_error *reterr) {
        const guest_access *s = userdata;

        if (s->containers.take)
                return s->containers.take(s->containers_userdata, config, data, n, reterr);
        if (n == 0)
                return 0;
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EOPNOTSUPP,
                               "the sandbox has containers of a containerd's, and this shim is for "
                               "none: `ferry host set --containerd` says which one");
}

static int check_prepare(void *userdata, ferry_error *reterr) {
        const guest_access *s = userdata;

        return s->containers.check_prepare
                       ? s->containers.check_prepare(s->containers_userdata, reterr)
                       : 0;
}

void guest_access_set_containers(guest_access *s, const sandbox_guest *containers, void *userdata) {
        s->containers = containers ? *containers : (sandbox_guest){ .take = NULL };
        s->containers_userdata = userdata;
}

static int carry(void *userdata, uint8_t **ret, size_t *ret_n) {
        guest_access *s = userdata;

        if (!s->programs)
                return 0;
        s->carried = true;
        return guest_processes_carry(s->programs, ret, ret_n);
}

static int arrive(void *userdata, const uint8_t *data, size_t n, ferry_error *reterr) {
        guest_access *s = userdata;
        char generation[GENERATION_SIZE];

        if (!sandbox_vm(s->sb))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENODEV,
                                       "the VM has gone");
        get_generation(s, generation);
        return guest_processes_arrive(sandbox_dir_fd(s->sb), generation, data, n, reterr);
}

/* Before has_guest(): nobody else is to find it. */
static int renew(void *userdata, sandbox_done done, void *done_userdata, ferry_error *reterr) {
        guest_access *s = userdata;
        int r;

        r = open_programs(s, reterr);
        if (r == 0)
                r = guest_renew(s->programs, done, done_userdata, reterr);
        if (r == 0)
                s->told = true; /* as one that has moved here would be */
        return r;
}

int guest_access_open(guest_access *s, guest_processes **ret, ferry_error *reterr) {
        ferry_vm *v = sandbox_vm(s->sb);
        int r;

        if (v && !vm_get_config(v)->agent)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENODEV,
                                       "this VM has no agent's ports: \"agent\": true in its "
                                       "configuration makes them");
        if (!has_guest(s))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENODEV,
                                       "the VM does not run here");
        r = open_programs(s, reterr);
        if (r == 0)
                *ret = s->programs;
        return r;
}

int guest_access_find(guest_access *s, const char *id, guest_processes **ret, ferry_error *reterr) {
        if (s->carried || (!s->programs && session_is_open(sandbox_session(s->sb))))
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -EAGAIN,
                                       "the sandbox is being moved: ask again, here or there");
        if (!s->programs)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                                       "no program '%.128s' was started", id);
        *ret = s->programs;
        return 0;
}

guest_processes *guest_access_programs(const guest_access *s) {
        return s->programs;
}

int guest_access_new(sd_event *event, sandbox *sb, guest_access **ret) {
        static const sandbox_guest guest = { .check_export = check_export,
                                             .describe = describe,
                                             .take = take,
                                             .check_prepare = check_prepare,
                                             .carry = carry,
                                             .arrive = arrive,
                                             .renew = renew };
        _cleanup_(guest_access_freep) guest_access *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        *s = (guest_access){ .sb = sb, .event = sd_event_ref(event) };
        r = sd_event_add_defer(event, &s->look, on_look, s);
        if (r >= 0)
                r = sd_event_source_set_enabled(s->look, SD_EVENT_OFF);
        if (r < 0)
                return r;
        sandbox_add_on_change(sb, on_change, s);
        sandbox_set_guest(sb, &guest, s);
        *ret = TAKE_PTR(s);
        return 0;
}

void guest_access_end(guest_access *s) {
        s->begun = false;
        s->programs = guest_processes_free(s->programs);
}

guest_access *guest_access_free(guest_access *s) {
        if (!s)
                return NULL;
        sandbox_remove_on_change(s->sb, s);
        sandbox_set_guest(s->sb, NULL, NULL);
        guest_processes_free(s->programs);
        sd_event_source_disable_unref(s->look);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}
