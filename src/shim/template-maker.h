/* SPDX-License-Identifier: MIT */
#pragma once

/* Makes a template (vm/template.h): boots a VM for nothing else, without disk and network, until
 * its agent answers, and writes down what it is then. */

#include <systemd/sd-event.h>

#include "shim/options.h"
#include "vm/vm-config.h"

/* The verb `template`: in this process, to the end. 0 too when there is one that fits already, or
 * another process is making it. */
int template_maker_run(const shim_options *options, ferry_error *reterr);

/* A process of its own that does so, with low priority; it logs where we do, and outlives us.
 * `folder` is the template's. */
int template_maker_start(sd_event *event, const vm_config *config, const char *folder,
                         const char *probe_cache, ferry_error *reterr);
