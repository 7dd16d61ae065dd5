/* SPDX-License-Identifier: MIT */
#include "cli/terminal.h"

#include <errno.h>
#include <unistd.h>

int terminal_make_raw(bool keep_output, struct termios *ret_before) {
        struct termios raw;

        if (tcgetattr(STDIN_FILENO, ret_before) < 0)
                return -errno;
        raw = *ret_before;
        cfmakeraw(&raw);
        if (keep_output)
                raw.c_oflag |= OPOST;
        return tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0 ? -errno : 0;
}

void terminal_restore(const struct termios *before) {
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, before);
}
