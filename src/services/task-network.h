/* SPDX-License-Identifier: MIT */
#pragma once

/* The network of a VM's containers: that of the namespace which the first of them names. Its
 * interface's place is taken by the VM's NIC (vm/nic.h), and the guest is given its addresses. */

#include "migration/sandbox.h"
#include "services/guest.h"
#include "vm/nic.h"

typedef struct task_network task_network;

int task_network_new(sd_event *event, sandbox *sb, guest_access *guest, task_network **ret);
/* Leaves the namespace as it is: task_network_leave() first, unless the VM lives on. */
task_network *task_network_free(task_network *n);

/* `path` as in oci_config. `done` is called later, once, when the guest has the network. 1: there
 * is none, or no other than the VM has, and `done` is not called. FailedPrecondition: the VM is in
 * another namespace. Whatever fails leaves no trace. */
int task_network_join(task_network *n, const char *path, sandbox_done done, void *userdata,
                      ferry_error *reterr);
/* The same before the start of a container: with a network that has been made meanwhile in QEMU's
 * own namespace, which is that of the pid that containerd knows. */
int task_network_join_late(task_network *n, sandbox_done done, void *userdata, ferry_error *reterr);

/* For a guest that is still to come here: it is to have the network of that namespace, or of that
 * bundle's, as above. Errors are those that can be known by now. */
int task_network_expect(task_network *n, const char *path, ferry_error *reterr);
/* It may say that the guest keeps the addresses that it has (ANNOTATION_KEEP_ADDRESS):
 * FailedPrecondition where there is no interface for them. */
int task_network_expect_of(task_network *n, const char *bundle, ferry_error *reterr);
/* The VM's state has changed: does what can be done by now of what is expected. `runs_here`: the
 * guest can be told. */
void task_network_look(task_network *n, bool runs_here);

/* The VM has gone, or belongs elsewhere now: the namespace's interface has its frames again. */
void task_network_leave(task_network *n);

DEFINE_CLEANUP(task_network *, task_network_free)
