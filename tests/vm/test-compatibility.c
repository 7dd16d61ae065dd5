/* SPDX-License-Identifier: MIT */

/* Real shims, and states as another host might have exported them: what differs is named, all of
 * it, and nothing has changed; what does not differ goes on. */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/digest.h"
#include "harness.h"
#include "state.pb-c.h"
#include "ttrpc/ttrpc.h"

typedef Ferry__State__V1__Compatibility compatibility;

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        assert_non_null(p);
        pair_start(p, 100, 64);
        snprintf(p->session, sizeof(p->session), "one");
        *state = p;
        return 0;
}

static int teardown(void **state) {
        pair_end(*state);
        free(*state);
        return 0;
}

/* With a digest that fits: a source may say what it likes. */
static ProtobufCBinaryData change(const ProtobufCBinaryData *from, void (*edit)(compatibility *c)) {
        Ferry__State__V1__SandboxState *s =
                ferry__state__v1__sandbox_state__unpack(NULL, from->len, from->data);
        ProtobufCBinaryData to;

        assert_non_null(s);
        edit(s->compatibility);
        free(s->digest.data);
        s->digest = (ProtobufCBinaryData){ 0, NULL };
        to.len = ferry__state__v1__sandbox_state__get_packed_size(s) + 2 + DIGEST_SIZE;
        to.data = malloc(to.len);
        assert_non_null(to.data);
        ferry__state__v1__sandbox_state__pack(s, to.data);
        to.data[to.len - DIGEST_SIZE - 2] = 15 << 3 | 2;
        to.data[to.len - DIGEST_SIZE - 1] = DIGEST_SIZE;
        digest_sha256(to.data, to.len - DIGEST_SIZE - 2, to.data + to.len - DIGEST_SIZE);
        ferry__state__v1__sandbox_state__free_unpacked(s, NULL);
        return to;
}

static void set(char **text, const char *value) {
        free(*text);
        *text = strdup(value);
}

static void edit_much(compatibility *c) {
        set(&c->machine, "pc-q35-99.0");
        set(&c->accelerator, "kvm");
        set(&c->cpu_features[0], "avx999"); /* sorts first */
        set(&c->devices[0], "disk0 virtio-blk-pci 00:10.0");
        c->vcpus = 7;
        c->page_size = 65536;
        set(&c->ram[0], "ram0 12345");
}

static void edit_nothing(compatibility *c) {
}

static void edit_version(compatibility *c) {
        set(&c->qemu_version, "7.2.0");
}

static void told(const char *text) {
        if (!strstr(call_message(), text))
                fail_msg("not told \"%s\": %s", text, call_message());
}

static void test_every_difference_is_named(void **state) {
        ProtobufCBinaryData exported = { .len = 0 }, other;
        pair *p = *state;

        call_export(p, &p->a, 0, &exported);
        other = change(&exported, edit_much);
        call_import(p, &p->b, &other, TTRPC_FAILED_PRECONDITION);
        told("the machine type is pc-q35-99.0 at the source and pc-q35-7.2 here");
        told("the accelerator is kvm at the source and tcg here");
        told("CPU feature avx999 is at the source and not here");
        told("device \"disk0 virtio-blk-pci 00:10.0\" is at the source and not here");
        told("device \"rng virtio-rng-pci 00:02.0\" is here and not at the source");
        told("the number of vCPUs is 7 at the source and 1 here");
        told("the page size is 65536 at the source and 4096 here");
        told("RAM block \"ram0 12345\" is at the source");
        free(other.data);

        /* nothing has changed */
        host_wait_detail(&p->b, "");
        other = change(&exported, edit_nothing);
        call_import(p, &p->b, &other, 0);
        call_prepare(p, &p->b, 0);
        call_cancel(p, &p->a, 0);
        call_cancel(p, &p->b, 0);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->a);
        free(other.data);
        free(exported.data);
}

/* The version matters only where it is too old to be moved from. */
static void test_another_version_is_no_difference(void **state) {
        ProtobufCBinaryData exported = { .len = 0 }, other;
        pair *p = *state;

        call_export(p, &p->a, 0, &exported);
        other = change(&exported, edit_version);
        call_import(p, &p->b, &other, 0);
        call_cancel(p, &p->b, 0);
        call_cleanup(p, &p->b, 0);
        call_cancel(p, &p->a, 0);
        call_cleanup(p, &p->a, 0);
        free(other.data);
        free(exported.data);
}

/* Given by the caller: refused at the source already. */
static void test_compatibility_data_is_checked(void **state) {
        CompatibilityInfo info = COMPATIBILITY_INFO__INIT;
        ProtobufCBinaryData exported = { .len = 0 };
        compatibility wanted = FERRY__STATE__V1__COMPATIBILITY__INIT;
        uint8_t data[256];
        pair *p = *state;

        wanted.machine = (char *)"pc-q35-8.0";
        wanted.vcpus = 3;
        info.data =
                (ProtobufCBinaryData){ ferry__state__v1__compatibility__pack(&wanted, data), data };
        p->options.compatibility_data = &info;
        call_export(p, &p->a, TTRPC_FAILED_PRECONDITION, &exported);
        told("the machine type is pc-q35-8.0 in compatibility_data and pc-q35-7.2 here");
        told("the number of vCPUs is 3 in compatibility_data and 1 here");
        host_wait_detail(&p->a, "");
        info.data.len = 3;
        call_export(p, &p->a, TTRPC_INVALID_ARGUMENT, &exported);
        told("compatibility_data");

        wanted.machine = (char *)"pc-q35-7.2";
        wanted.vcpus = 1;
        info.data.len = ferry__state__v1__compatibility__pack(&wanted, data);
        migrate_whole(p, &p->a, &p->b);
        guest_check(&p->b);
        p->options.compatibility_data = NULL;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_every_difference_is_named, setup, teardown),
                cmocka_unit_test_setup_teardown(test_another_version_is_no_difference, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(test_compatibility_data_is_checked, setup,
                                                teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
