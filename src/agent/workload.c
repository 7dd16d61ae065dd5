/* SPDX-License-Identifier: MIT */

/* What a demo guest does: `ferry-workload demo|tick`, configured by the kernel command line. */

#include <signal.h>
#include <string.h>

#include "agent/memory.h"
#include "agent/parameters.h"
#include "agent/server.h"
#include "agent/tick.h"

#define MEMORY_MB_DEFAULT 64
#define RATE_MB_DEFAULT   20

int main(int argc, char **argv) {
        char parameters[PARAMETERS_TEXT_MAX];
        memory_state *memory = NULL;
        long size, rate;
        int r = 0;

        if (argc != 2 || (strcmp(argv[1], "demo") != 0 && strcmp(argv[1], "tick") != 0)) {
                (void)fprintf(stderr, "usage: ferry-workload demo|tick\n");
                return 2;
        }
        (void)signal(SIGPIPE, SIG_IGN);
        parameters_read(parameters);
        size = parameter_number(parameters, "memory_mb", 0, MEMORY_SIZE_MAX, MEMORY_MB_DEFAULT);
        rate = parameter_number(parameters, "memory_rate_mb", MEMORY_RATE_PAUSE, MEMORY_RATE_MAX,
                                RATE_MB_DEFAULT);
        if (size > 0)
                r = memory_start(size, rate, &memory);
        if (r == 0)
                r = strcmp(argv[1], "demo") == 0 ? server_run(memory) : tick_run(memory);
        (void)fprintf(stderr, "ferry-workload: %s\n", strerror(-r));
        return 1;
}
