/* SPDX-License-Identifier: MIT */

/* Who knows what runs in the guest is asked, or told. */

#include "migration/sandbox-internal.h"
#include "migration/sandbox-restore.h"

void sandbox_set_guest(sandbox *sb, const sandbox_guest *guest, void *userdata) {
        sb->guest = guest ? *guest : (sandbox_guest){ .carry = NULL };
        sb->guest_userdata = userdata;
}

int sandbox_check_export(sandbox *sb, ferry_error *reterr) {
        if (sb->vm && vm_disks_are_changing(sb->vm))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "a disk is being added or removed");
        return sb->guest.check_export ? sb->guest.check_export(sb->guest_userdata, reterr) : 0;
}

int sandbox_describe_containers(sandbox *sb, uint8_t **ret, size_t *ret_n, ferry_error *reterr) {
        *ret = NULL;
        *ret_n = 0;
        return sb->guest.describe ? sb->guest.describe(sb->guest_userdata, ret, ret_n, reterr) : 0;
}

int sandbox_take_containers(sandbox *sb, const vm_config *config, const uint8_t *data, size_t n,
                            ferry_error *reterr) {
        if (sb->guest.take)
                return sb->guest.take(sb->guest_userdata, config, data, n, reterr);
        if (n == 0)
                return 0;
        return ferry_error_set(reterr, FERRY_UNIMPLEMENTED, -EOPNOTSUPP,
                               "nobody here knows what to do with the sandbox's containers");
}

int sandbox_check_prepare(sandbox *sb, ferry_error *reterr) {
        return sb->guest.check_prepare ? sb->guest.check_prepare(sb->guest_userdata, reterr) : 0;
}

int sandbox_carry_guest(sandbox *sb, uint8_t **ret, size_t *ret_n) {
        *ret = NULL;
        *ret_n = 0;
        return sb->guest.carry ? sb->guest.carry(sb->guest_userdata, ret, ret_n) : 0;
}

int sandbox_guest_arrives(sandbox *sb, const uint8_t *data, size_t n, ferry_error *reterr) {
        if (sb->guest.arrive)
                return sb->guest.arrive(sb->guest_userdata, data, n, reterr);
        return ferry_error_set(reterr, FERRY_UNIMPLEMENTED, -EOPNOTSUPP,
                               "nobody here knows what to do with the guest's programs");
}

static void on_renewed(int r, const ferry_error *error, void *userdata) {
        sandbox *sb = userdata;

        if (sb->restore)
                sandbox_restore_on_renewed(sb->restore, r, error);
}

int sandbox_renew_guest(sandbox *sb, ferry_error *reterr) {
        if (!sb->guest.renew)
                return ferry_error_set(reterr, FERRY_UNIMPLEMENTED, -EOPNOTSUPP,
                                       "nobody here talks to its guest");
        return sb->guest.renew(sb->guest_userdata, on_renewed, sb, reterr);
}
